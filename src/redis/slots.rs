//! Splits commands over keys of several cluster slots into batches of one slot each.

use serde_json::Value;

use super::run::keys_of;
use super::{Command, number_of};

/// Commands in batches. The commands of a batch run in order and in one step, one batch after the other.
pub(crate) struct SlotBatches {
    batches: Vec<SlotBatch>,
    /// The replies to all commands, `null` until they arrive.
    replies: Vec<Value>,
}

struct SlotBatch {
    tag: Option<String>,
    commands: Vec<Command>,
    /// For each command its index among all commands. A command that is split over several batches also has
    /// the indexes of its keys.
    places: Vec<(usize, Option<Vec<usize>>)>,
}

/// The part of a key that chooses its slot: its hash tag, or the whole key.
fn tag_of(key: &str) -> &str {
    let inside = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'));
    inside.map_or(key, |(tag, _)| if tag.is_empty() { key } else { tag })
}

impl SlotBatches {
    /// Puts all commands into one batch.
    pub(crate) fn single(commands: Vec<Command>) -> Self {
        let replies = vec![Value::Null; commands.len()];
        let places = (0..commands.len()).map(|place| (place, None)).collect();
        let batch = SlotBatch {
            tag: None,
            commands,
            places,
        };
        Self {
            batches: vec![batch],
            replies,
        }
    }

    /// Makes a batch for each slot, in the order in which slots first occur. Commands of a slot stay in order.
    pub(crate) fn by_slot(commands: Vec<Command>) -> Self {
        let mut batches = Self {
            batches: Vec::new(),
            replies: vec![Value::Null; commands.len()],
        };
        for (place, command) in commands.into_iter().enumerate() {
            let keys = keys_of(&command);
            let first = keys.first().map(|key| tag_of(key).to_owned());
            let is_of_one_slot = keys.iter().all(|key| Some(tag_of(key)) == first.as_deref());
            if is_of_one_slot {
                let batch = batches.batch(first);
                batch.places.push((place, None));
                batch.commands.push(command);
                continue;
            }
            // The command is DEL, EXISTS or MGET: only these have several keys.
            if command[0] == "MGET" {
                batches.replies[place] = vec![Value::Null; keys.len()].into();
            }
            for (number, key) in keys.iter().enumerate() {
                let batch = batches.batch(Some(tag_of(key).to_owned()));
                match batch.places.last_mut() {
                    Some((last, Some(numbers))) if *last == place => numbers.push(number),
                    _ => {
                        batch.places.push((place, Some(vec![number])));
                        batch.commands.push(vec![command[0].clone()]);
                    }
                }
                if let Some(words) = batch.commands.last_mut() {
                    words.push(key.clone());
                }
            }
        }
        batches
    }

    /// The batch of this tag, which is added if there is none.
    fn batch(&mut self, tag: Option<String>) -> &mut SlotBatch {
        let found = self.batches.iter().position(|batch| batch.tag == tag);
        let place = found.unwrap_or_else(|| {
            self.batches.push(SlotBatch {
                tag,
                commands: Vec::new(),
                places: Vec::new(),
            });
            self.batches.len() - 1
        });
        &mut self.batches[place]
    }

    /// The number of commands in each batch.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = usize> {
        self.batches.iter().map(|batch| batch.commands.len())
    }

    /// Takes the commands of a batch, once. `None` if there is no such batch.
    pub(crate) fn take(&mut self, batch: usize) -> Option<Vec<Command>> {
        let batch = self.batches.get_mut(batch)?;
        Some(std::mem::take(&mut batch.commands))
    }

    /// Stores the replies to a batch. `None` if they are not as many as its commands.
    pub(crate) fn put(&mut self, batch: usize, replies: Vec<Value>) -> Option<()> {
        let places = &self.batches.get(batch)?.places;
        if places.len() != replies.len() {
            return None;
        }
        for ((place, numbers), reply) in places.iter().zip(replies) {
            let all = self.replies.get_mut(*place)?;
            match (numbers, all.as_array_mut()) {
                (None, _) => *all = reply,
                (Some(numbers), Some(all)) => {
                    for (number, one) in numbers.iter().zip(reply.as_array()?) {
                        *all.get_mut(*number)? = one.clone();
                    }
                }
                (Some(_), None) => *all = (number_of(all) + number_of(&reply)).into(),
            }
        }
        Some(())
    }

    /// The replies in the order of the commands.
    pub(crate) fn replies(self) -> Vec<Value> {
        self.replies
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{SlotBatches, tag_of};
    use crate::redis::Command;

    fn words(line: &str) -> Command {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn the_first_braces_of_a_key_are_its_tag() {
        for (key, tag) in [
            ("t:a:{b}:c", "b"),
            ("t:a:{b}:{c}", "b"),
            ("t:app/a", "t:app/a"),
            ("t:app/{}a", "t:app/{}a"),
            ("t:app/{a", "t:app/{a"),
        ] {
            assert_eq!(tag_of(key), tag);
        }
    }

    /// Runs `lines` on a server whose `MGET` returns the keys' names, and whose `DEL` counts every key.
    /// Returns the commands of each batch, and all replies.
    fn run(lines: &[&str]) -> (Vec<Vec<String>>, Vec<Value>) {
        let mut batches = SlotBatches::by_slot(lines.iter().map(|line| words(line)).collect());
        let mut ran = Vec::new();
        for number in 0.. {
            let Some(commands) = batches.take(number) else {
                break;
            };
            let reply = |command: &Command| match command[0].as_str() {
                "MGET" => json!(command[1..]),
                "DEL" => json!(command.len() - 1),
                _ => json!(command.join(" ")),
            };
            let replies = commands.iter().map(reply).collect();
            assert_eq!(batches.put(number, replies), Some(()));
            ran.push(commands.iter().map(|command| command.join(" ")).collect());
        }
        (ran, batches.replies())
    }

    #[test]
    fn commands_run_by_slot_and_are_answered_in_their_own_order() {
        let (ran, replies) = run(&[
            "INCRBY {a}1 1",
            "INCRBY {b}1 1",
            "MGET {a}1 {a}2 {b}1 {a}3 c",
            "DEL {b}2 {a}4 {b}3",
            "MGET {a}1 {a}2",
            "ZREM {records}z m",
            "TIME",
        ]);
        let expected = [
            vec![
                "INCRBY {a}1 1",
                "MGET {a}1 {a}2 {a}3",
                "DEL {a}4",
                "MGET {a}1 {a}2",
            ],
            vec!["INCRBY {b}1 1", "MGET {b}1", "DEL {b}2 {b}3"],
            vec!["MGET c"],
            vec!["ZREM {records}z m"],
            vec!["TIME"],
        ];
        assert_eq!(ran, expected);
        let expected = [
            json!("INCRBY {a}1 1"),
            json!("INCRBY {b}1 1"),
            json!(["{a}1", "{a}2", "{b}1", "{a}3", "c"]),
            json!(3),
            json!(["{a}1", "{a}2"]),
            json!("ZREM {records}z m"),
            json!("TIME"),
        ];
        assert_eq!(replies, expected);
    }

    #[test]
    fn too_few_replies_are_refused() {
        let mut batches = SlotBatches::by_slot(vec![words("MGET {a}1 {b}1")]);
        assert_eq!(batches.put(0, vec![]), None);
        assert_eq!(batches.put(0, vec![json!("x")]), None);
        assert_eq!(batches.put(7, vec![json!([null])]), None);
    }
}

//! Commands over keys of several slots of a cluster, in parts of one slot each.

use serde_json::Value;

use super::run::keys_of;
use super::{Command, whole};

/// Commands that run apart: those of a part in order and in one step, one part after the other.
pub(crate) struct SlotBatches {
    parts: Vec<SlotBatch>,
    /// To all commands, as far as they have come.
    replies: Vec<Value>,
}

struct SlotBatch {
    tag: Option<String>,
    commands: Vec<Command>,
    /// Of each command the place among all, and of those over several parts the places of its keys.
    places: Vec<(usize, Option<Vec<usize>>)>,
}

/// What chooses a key's slot: its hash tag, or all of it.
fn tag_of(key: &str) -> &str {
    let inside = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'));
    inside.map_or(key, |(tag, _)| if tag.is_empty() { key } else { tag })
}

impl SlotBatches {
    /// All in one part.
    pub(crate) fn whole(commands: Vec<Command>) -> Self {
        let replies = vec![Value::Null; commands.len()];
        let places = (0..commands.len()).map(|place| (place, None)).collect();
        let part = SlotBatch {
            tag: None,
            commands,
            places,
        };
        Self {
            parts: vec![part],
            replies,
        }
    }

    /// By slot, in the order in which each is first named. Commands of a slot stay in order.
    pub(crate) fn by_slot(commands: Vec<Command>) -> Self {
        let mut parts = Self {
            parts: Vec::new(),
            replies: vec![Value::Null; commands.len()],
        };
        for (place, command) in commands.into_iter().enumerate() {
            let keys = keys_of(&command);
            let first = keys.first().map(|key| tag_of(key).to_owned());
            let is_of_one = keys.iter().all(|key| Some(tag_of(key)) == first.as_deref());
            if is_of_one {
                let part = parts.part(first);
                part.places.push((place, None));
                part.commands.push(command);
                continue;
            }
            // DEL, EXISTS or MGET.
            if command[0] == "MGET" {
                parts.replies[place] = vec![Value::Null; keys.len()].into();
            }
            for (number, key) in keys.iter().enumerate() {
                let part = parts.part(Some(tag_of(key).to_owned()));
                match part.places.last_mut() {
                    Some((known, Some(numbers))) if *known == place => numbers.push(number),
                    _ => {
                        part.places.push((place, Some(vec![number])));
                        part.commands.push(vec![command[0].clone()]);
                    }
                }
                if let Some(words) = part.commands.last_mut() {
                    words.push(key.clone());
                }
            }
        }
        parts
    }

    fn part(&mut self, tag: Option<String>) -> &mut SlotBatch {
        let known = self.parts.iter().position(|part| part.tag == tag);
        let place = known.unwrap_or_else(|| {
            self.parts.push(SlotBatch {
                tag,
                commands: Vec::new(),
                places: Vec::new(),
            });
            self.parts.len() - 1
        });
        &mut self.parts[place]
    }

    /// How many commands each has.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = usize> {
        self.parts.iter().map(|part| part.commands.len())
    }

    /// The commands of a part, each taken once; `None`: there are no more parts.
    pub(crate) fn take(&mut self, part: usize) -> Option<Vec<Command>> {
        let part = self.parts.get_mut(part)?;
        Some(std::mem::take(&mut part.commands))
    }

    /// Takes the replies to a part, as many as it had commands. `None`: they are not.
    pub(crate) fn put(&mut self, part: usize, replies: Vec<Value>) -> Option<()> {
        let places = &self.parts.get(part)?.places;
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
                (Some(_), None) => *all = (whole(all) + whole(&reply)).into(),
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
    fn a_key_is_placed_by_its_first_braces() {
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

    /// The commands of each part, and all replies, where each key's is its name and each count 1 a key.
    fn run(lines: &[&str]) -> (Vec<Vec<String>>, Vec<Value>) {
        let mut parts = SlotBatches::by_slot(lines.iter().map(|line| words(line)).collect());
        let mut ran = Vec::new();
        for number in 0.. {
            let Some(commands) = parts.take(number) else {
                break;
            };
            let reply = |command: &Command| match command[0].as_str() {
                "MGET" => json!(command[1..]),
                "DEL" => json!(command.len() - 1),
                _ => json!(command.join(" ")),
            };
            let replies = commands.iter().map(reply).collect();
            assert_eq!(parts.put(number, replies), Some(()));
            ran.push(commands.iter().map(|command| command.join(" ")).collect());
        }
        (ran, parts.replies())
    }

    #[test]
    fn commands_run_by_slot_and_are_answered_as_if_they_had_not() {
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
    fn replies_that_are_too_few_are_none() {
        let mut parts = SlotBatches::by_slot(vec![words("MGET {a}1 {b}1")]);
        assert_eq!(parts.put(0, vec![]), None);
        assert_eq!(parts.put(0, vec![json!("x")]), None);
        assert_eq!(parts.put(7, vec![json!([null])]), None);
    }
}

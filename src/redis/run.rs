//! Runs several commands atomically, as one script. A transaction would not do: a bridge that shares its
//! connections lets other requests come between `MULTI` and `EXEC`.

use super::Command;
use super::script::{PackedWords, Script, ScriptCall};

/// The script. A test checks the SHA-1s.
pub(super) const SCRIPT: Script = Script {
    text: include_str!("run.lua"),
    sha1: "ba65fb12931f00f7edc905e25ce2866aac5b4850",
    plain_sha1: "61f65097aa245c140c9384cde193dd47aa8477ca",
};

/// The call that runs `commands`.
pub(super) fn call(commands: &[Command]) -> ScriptCall {
    let mut call = ScriptCall::default();
    for command in commands {
        push_words(&mut call.arguments, command);
    }
    push_keys(&mut call.keys, commands.iter());
    call
}

/// Adds a command to a script's arguments: the number of its words, then the words. A script can run a
/// command of a few thousand words at most.
pub(crate) fn push_words(arguments: &mut PackedWords, command: &Command) {
    arguments.push_number(command.len() as u64);
    command.iter().for_each(|word| arguments.push(word));
}

/// Adds the keys of `commands` to a script's keys, each once.
pub(crate) fn push_keys<'a>(keys: &mut PackedWords, commands: impl Iterator<Item = &'a Command>) {
    let mut touched: Vec<&String> = commands.flat_map(keys_of).collect();
    touched.sort_unstable();
    touched.dedup();
    touched.retain(|key| !keys.iter().any(|present| present == *key));
    touched.iter().for_each(|key| keys.push(key));
}

/// The keys that a command reads or writes.
pub(crate) fn keys_of(command: &Command) -> &[String] {
    let keys = match command.first().map(String::as_str) {
        Some("DEL" | "EXISTS" | "MGET") => 1..command.len(),
        Some("SCAN") => 0..0,
        _ => 1..command.len().min(2),
    };
    command.get(keys).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::SCRIPT;

    #[test]
    fn the_sha1s_match_the_script() {
        SCRIPT.assert_sha1s("run.lua");
    }
}

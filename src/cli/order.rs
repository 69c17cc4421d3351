//! Flags of every command, wherever they stand.

use std::ffi::OsString;

/// Moves flags of every command from before a command's name to after it: clap, told that the main job's
/// arguments and commands exclude each other, takes them only there.
pub fn command_first(
    line: impl IntoIterator<Item = OsString>,
    is_command: impl Fn(&str) -> bool,
) -> Vec<OsString> {
    let mut line: Vec<OsString> = line.into_iter().collect();
    let mut at = 1;
    while let Some(word) = line.get(at).and_then(|word| word.to_str()) {
        if is_command(word) {
            let command = line.remove(at);
            line.insert(1, command);
            break;
        }
        at += match word {
            "--json" | "--quiet" | "--verbose" => 1,
            "--threads" => 2,
            _ if word.starts_with("--threads=") => 1,
            // `-q`, `-v`, `-vv`
            _ if word.len() > 1 && !word.starts_with("--") && word.starts_with('-') => {
                if word[1..].chars().any(|flag| flag != 'q' && flag != 'v') {
                    break;
                }
                1
            }
            _ => break,
        };
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_flags_of_every_command_are_passed_over() {
        let moved = |line: &str| {
            let line = line.split(' ').map(OsString::from);
            let line = command_first(line, |word| word == "check");
            line.join(" ".as_ref()).into_string().expect("text")
        };
        assert_eq!(moved("x -q check a b"), "x check -q a b");
        assert_eq!(moved("x --threads 2 --json -vv check a"), "x check --threads 2 --json -vv a");
        for same in ["x check -q a", "x a check", "x --ratio 2 check b", "x -q", "x", "x -h check"]
        {
            assert_eq!(moved(same), same);
        }
    }
}

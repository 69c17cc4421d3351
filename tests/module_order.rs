//! A module uses only modules listed below it in `lib.rs`.

#![allow(clippy::unwrap_used, reason = "a test or an example may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The crate's modules from top to bottom.
fn order() -> Vec<String> {
    let lib = fs::read_to_string(source().join("lib.rs")).expect("lib.rs");
    lib.lines()
        .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect()
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Names that follow `crate::` (or `onnx_bsr::`) in code: `crate::a`, `use crate::{a, b::c}`.
fn used(text: &str) -> BTreeSet<String> {
    let code: Vec<&str> =
        text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let mut names = BTreeSet::new();
    for prefix in ["crate::", "onnx_bsr::"] {
        for (at, _) in code.match_indices(prefix) {
            let rest = &code[at + prefix.len()..];
            match rest.strip_prefix('{') {
                Some(list) => names.extend(top_level(list)),
                None => names.extend(identifier(rest)),
            }
        }
    }
    names
}

/// The first names of the entries of `a, b::{c, d}, e}`.
fn top_level(list: &str) -> Vec<String> {
    let (mut depth, mut entry, mut names) = (0, String::new(), Vec::new());
    for character in list.chars() {
        match character {
            '}' if depth == 0 => break,
            ',' if depth == 0 => names.extend(identifier(std::mem::take(&mut entry).trim())),
            _ => {
                depth += i32::from(character == '{') - i32::from(character == '}');
                entry.push(character);
            }
        }
    }
    names.extend(identifier(entry.trim()));
    names
}

fn identifier(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

#[test]
fn modules_use_only_what_is_below() {
    let order = order();
    assert!(order.len() > 10, "lib.rs lists {order:?}");
    let floor = |name: &str| order.iter().position(|module| module == name);
    let mut found = Vec::new();
    files(&source(), &mut found);
    let mut faults = Vec::new();
    for path in found {
        let relative = path.strip_prefix(source()).expect("below src");
        let first = relative.components().next().expect("a name").as_os_str().to_string_lossy();
        let module = first.trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source file");
        // `main` is above all; every other file belongs to a listed module.
        let own = match floor(module) {
            Some(own) => Some(own),
            None if module == "main" => None,
            None => {
                faults.push(format!("{}: `{module}` is not in lib.rs", relative.display()));
                continue;
            }
        };
        // A module's tests may bring what they need from anywhere.
        if relative.components().any(|c| c.as_os_str().to_string_lossy().starts_with("tests")) {
            continue;
        }
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for name in used(text) {
            if let (Some(own), Some(other)) = (own, floor(&name))
                && other < own
            {
                faults.push(format!("{}: uses `{name}`, which is above", relative.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn heavy_crates_have_one_door() {
    let mut found = Vec::new();
    files(&source(), &mut found);
    for path in found {
        let relative = path.strip_prefix(source()).expect("below src").to_owned();
        let text = fs::read_to_string(&path).expect("a source file");
        let uses = |krate: &str| {
            text.lines().any(|line| {
                line.trim_start().starts_with(&format!("use {krate}::"))
                    || line.trim_start().starts_with(&format!("use {krate};"))
            })
        };
        for (krate, door) in [("clap", "cli"), ("indicatif", "cli"), ("ctrlc", "cli")] {
            assert!(!uses(krate) || relative.starts_with(door), "{}: {krate}", relative.display());
        }
    }
}

#[test]
fn paths_are_found() {
    let text = "use crate::a;\nuse crate::{b::{self, x}, c, d::Y};\nlet _ = crate::e::f(); \
                // crate::comment\nonnx_bsr::g::h()";
    assert_eq!(used(text).into_iter().collect::<Vec<_>>(), ["a", "b", "c", "d", "e", "g"]);
}

/// The README's program is the one that the crate's documentation has, which is compiled.
#[test]
fn the_readme_shows_the_documented_program() {
    let lib = fs::read_to_string(source().join("lib.rs")).expect("lib.rs");
    let mut program = String::new();
    let lines = lib.lines().skip_while(|line| !line.starts_with("//! ```")).skip(1);
    for line in lines.take_while(|line| !line.starts_with("//! ```")) {
        program.push_str(line.strip_prefix("//! ").unwrap_or_default());
        program.push('\n');
    }
    let readme = fs::read_to_string(source().join("../README.md")).expect("the README");
    assert!(program.contains("fn main") && readme.contains(&format!("```rust\n{program}```")));
}

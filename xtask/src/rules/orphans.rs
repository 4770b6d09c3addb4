//! A file that no `mod` names is never compiled, and a test in it never run. Names such files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Names the files that are compiled by nobody.
///
/// # Errors
/// A file cannot be read.
pub fn check(root: &Path, files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let known: BTreeSet<&Path> = files.iter().map(PathBuf::as_path).collect();
    let mut reached: BTreeSet<PathBuf> =
        files.iter().filter(|file| is_root(file)).cloned().collect();
    let mut open: Vec<PathBuf> = reached.iter().cloned().collect();
    while let Some(file) = open.pop() {
        let text = std::fs::read_to_string(root.join(&file))
            .with_context(|| format!("reading {}", file.display()))?;
        for child in children(&file, &text) {
            if known.contains(child.as_path()) && reached.insert(child.clone()) {
                open.push(child);
            }
        }
    }
    Ok(files
        .iter()
        .filter(|file| !reached.contains(*file))
        .map(|file| format!("{}: no mod names it, so nothing compiles it", file.display()))
        .collect())
}

/// Where cargo starts by itself: `src/lib.rs`, `src/main.rs`, `build.rs`, and the files or the
/// `main.rs` of folders in `src/bin`, `tests`, `benches` and `examples`.
fn is_root(file: &Path) -> bool {
    let names: Vec<_> = file.iter().map(|name| name.to_string_lossy()).collect();
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    match names.as_slice() {
        [.., "src", "lib.rs" | "main.rs"] | [.., "build.rs"] => true,
        [.., "src", "bin", _] | [.., "src", "bin", _, "main.rs"] => true,
        [.., "tests" | "benches" | "examples", _, "main.rs"] => true,
        [before @ .., "tests" | "benches" | "examples", _] => !before.contains(&"src"),
        _ => false,
    }
}

/// The files that the text names, wherever they could be.
fn children(file: &Path, text: &str) -> Vec<PathBuf> {
    let dir = file.parent().unwrap_or(Path::new(""));
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let nested = if is_root(file) || stem == "mod" { dir.to_path_buf() } else { dir.join(&stem) };
    let mut children = Vec::new();
    let mut path_attribute = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = module_name(line) {
            match path_attribute.take() {
                Some(path) => children.push(dir.join(path)),
                None => {
                    children.push(nested.join(format!("{name}.rs")));
                    children.push(nested.join(name).join("mod.rs"));
                }
            }
        } else if let Some(path) = quoted_after(line, "#[path = ") {
            path_attribute = Some(path);
        } else if let Some(path) = quoted_after(line, "include!(") {
            children.push(dir.join(path));
        }
    }
    children
}

/// The name in `mod name;`, whatever its visibility.
fn module_name(line: &str) -> Option<&str> {
    let declaration = line.split_once(';')?.0;
    let (visibility, name) = match declaration.strip_prefix("mod ") {
        Some(name) => ("", name),
        None => declaration.split_once(" mod ")?,
    };
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (visibility.is_empty() || visibility.starts_with("pub"))
        .then_some(name)
        .filter(|name| !name.is_empty() && plain(name))
}

fn quoted_after<'a>(line: &'a str, start: &str) -> Option<&'a str> {
    line.strip_prefix(start)?.strip_prefix('"')?.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_whatever_their_form() {
        for (line, name) in [
            ("mod a;", Some("a")),
            ("pub mod b_2;", Some("b_2")),
            ("pub(crate) mod c;", Some("c")),
            ("mod d {", None),
            ("// mod e;", None),
            ("let mod_f = 1;", None),
        ] {
            assert_eq!(module_name(line), name, "{line}");
        }
    }

    #[test]
    fn a_child_lies_beside_a_root_and_below_another_file() {
        let of_root = children(Path::new("r/src/lib.rs"), "pub mod a;\n");
        assert!(of_root.contains(&"r/src/a.rs".into()));
        let of_other = children(Path::new("r/src/a.rs"), "mod tests;\n");
        assert!(of_other.contains(&"r/src/a/tests.rs".into()));
        let by_path = children(Path::new("r/src/a.rs"), "#[path = \"x/y.rs\"]\nmod z;\n");
        assert_eq!(by_path, [PathBuf::from("r/src/x/y.rs")]);
    }

    #[test]
    fn cargo_starts_at_these() {
        for file in [
            "r/src/lib.rs",
            "r/src/main.rs",
            "r/build.rs",
            "r/src/bin/tool.rs",
            "r/tests/story.rs",
            "r/tests/stories/main.rs",
        ] {
            assert!(is_root(Path::new(file)), "{file}");
        }
        for file in
            ["r/src/a.rs", "r/src/a/tests.rs", "r/tests/stories/one.rs", "r/src/a/tests/b.rs"]
        {
            assert!(!is_root(Path::new(file)), "{file}");
        }
    }

    #[test]
    fn an_orphan_is_named() {
        let dir = std::env::temp_dir().join(format!("xtask-orphans-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("r/src")).unwrap();
        std::fs::write(dir.join("r/src/lib.rs"), "mod used;\n").unwrap();
        std::fs::write(dir.join("r/src/used.rs"), "").unwrap();
        std::fs::write(dir.join("r/src/orphan.rs"), "").unwrap();
        let files = ["r/src/lib.rs", "r/src/orphan.rs", "r/src/used.rs"].map(PathBuf::from);
        let problems = check(&dir, &files);
        std::fs::remove_dir_all(&dir).unwrap();
        let problems = problems.unwrap();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("r/src/orphan.rs"), "{problems:?}");
    }
}

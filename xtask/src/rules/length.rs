//! A file past 500 lines says in its header why; a `main.rs` has at most 40.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

const LONGEST: usize = 500;
const LONGEST_MAIN: usize = 40;
/// The header: a reason further down is not found by who opens the file.
const HEADER: usize = 15;
/// What the header's reason has to contain.
const REASON: &str = "500 lines";

/// Names the files that are too long.
///
/// # Errors
/// A file cannot be read.
pub fn check(root: &Path, files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(root.join(file))
            .with_context(|| format!("reading {}", file.display()))?;
        problems.extend(judge(file, &text));
    }
    Ok(problems)
}

fn judge(file: &Path, text: &str) -> Option<String> {
    let lines = text.lines().count();
    let is_main = file.ends_with("src/main.rs");
    if is_main && lines > LONGEST_MAIN {
        return Some(format!(
            "{}: {lines} lines; a main.rs has at most {LONGEST_MAIN}",
            file.display()
        ));
    }
    let excused = text.lines().take(HEADER).any(|line| line.contains(REASON));
    (lines > LONGEST && !excused).then(|| {
        format!(
            "{}: {lines} lines; past {LONGEST}, the header (first {HEADER} lines) says why it is \
             longer than {REASON}",
            file.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_needs_a_reason_in_its_header() {
        let file = Path::new("room/src/long.rs");
        let body = "x\n".repeat(LONGEST);
        assert_eq!(judge(file, &body), None);
        assert!(judge(file, &format!("{body}x\n")).is_some());
        assert_eq!(judge(file, &format!("//! Over 500 lines: one table.\n{body}")), None);
        assert!(judge(file, &format!("{body}//! Over 500 lines: one table.\n")).is_some());
    }

    #[test]
    fn a_main_is_short() {
        let main = Path::new("room/src/main.rs");
        assert_eq!(judge(main, &"x\n".repeat(LONGEST_MAIN)), None);
        assert!(judge(main, &"x\n".repeat(LONGEST_MAIN + 1)).is_some());
    }
}

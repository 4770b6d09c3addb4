//! Shows a [`View`]: a table that redraws itself on a terminal, a line per change elsewhere.

use std::fmt::Write as _;
use std::time::Duration;

use crate::demo::objects::{DEVICE, NAMESPACE, NODE};
use crate::demo::view::{DeviceView, Row, View};
use crate::terminal;

/// What is on the screen, and what was.
#[derive(Debug)]
pub struct Screen {
    redraws: bool,
    drawn_lines: usize,
    last: Option<View>,
}

impl Screen {
    /// `redraws`: whether the output understands cursor movement.
    #[must_use]
    pub fn new(redraws: bool) -> Self {
        Self { redraws, drawn_lines: 0, last: None }
    }

    /// Shows the view; `elapsed` since everything ran.
    pub fn show(&mut self, view: &View, elapsed: Duration) {
        if self.redraws {
            let table = table(view, elapsed, jiff::Timestamp::now().as_millisecond());
            let mut text = String::new();
            if self.drawn_lines > 0 {
                let _ = write!(text, "\x1b[{}F", self.drawn_lines);
            }
            for line in table.lines() {
                let _ = writeln!(text, "\x1b[2K{line}");
            }
            // A shorter table than before leaves nothing of the longer one.
            text.push_str("\x1b[J");
            self.drawn_lines = table.lines().count();
            terminal::raw(&text);
        } else {
            for line in changes(self.last.as_ref(), view) {
                terminal::line(format_args!("{:6.1} s  {line}", elapsed.as_secs_f64()));
            }
        }
        self.last = Some(view.clone());
    }
}

/// The table, at most 80 columns wide.
fn table(view: &View, elapsed: Duration, now_ms: i64) -> String {
    let mut text = format!("node {NODE}: {}   up {} s\n", view.node, elapsed.as_secs());
    if let Some(problem) = &view.problem {
        let _ = writeln!(text, "API: {:.70}", problem);
    }
    let Some(device) = &view.device else {
        let _ = writeln!(text, "device {NAMESPACE}/{DEVICE}: not in the API");
        return text;
    };
    let _ = writeln!(text, "device {NAMESPACE}/{DEVICE}: {}", device.state);
    for chunk in device.conditions.chunks(3) {
        let words: Vec<String> =
            chunk.iter().map(|(kind, status)| format!("{kind}={status}")).collect();
        let _ = writeln!(text, "  {:.78}", words.join("  "));
    }
    let _ = writeln!(
        text,
        "\n  {:<13} {:>10} {:>10} {:>8}   {:>10}",
        "PROPERTY", "DESIRED", "REPORTED", "AGE", "IN DEVICE"
    );
    for row in &device.rows {
        let dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        let age = row.sampled_ms.map_or("-".into(), |at| age(now_ms - at));
        let _ = writeln!(
            text,
            "  {:<13} {:>10} {:>10} {:>8}   {:>10}",
            row.name,
            dash(&row.desired),
            row.reported.as_deref().map_or("-".into(), short),
            age,
            dash(&row.actual)
        );
    }
    text.push_str("\nCtrl-C stops everything and removes it.\n");
    text
}

/// A number shows three decimals at most: what follows is noise of the binary form.
fn short(value: &str) -> String {
    let decimals = value.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    match value.parse::<f64>() {
        Ok(number) if decimals > 3 => format!("{number:.3}"),
        _ => value.chars().take(10).collect(),
    }
}

fn age(millis: i64) -> String {
    let seconds = millis.max(0) / 1000;
    if seconds < 100 {
        format!("{}.{} s", seconds, millis.max(0) % 1000 / 100)
    } else {
        format!("{} min", seconds / 60)
    }
}

/// What differs between two views, a line each.
fn changes(before: Option<&View>, after: &View) -> Vec<String> {
    let mut lines = Vec::new();
    let mut tell = |name: &str, old: Option<&str>, new: Option<&str>| {
        if old != new {
            lines.push(match old {
                Some(old) => format!("{name}: {old} -> {}", new.unwrap_or("none")),
                None => format!("{name}: {}", new.unwrap_or("none")),
            });
        }
    };
    tell("node", before.map(|view| view.node.as_str()), Some(&after.node));
    let problem = |view: Option<&View>| view.and_then(|view| view.problem.clone());
    tell("API problem", problem(before).as_deref(), after.problem.as_deref());
    let nothing = DeviceView::default();
    let old = before.and_then(|view| view.device.as_ref());
    let new = after.device.as_ref();
    tell(
        "device",
        old.map(|device| device.state.as_str()),
        new.map(|device| device.state.as_str()),
    );
    let (old, new) = (old.unwrap_or(&nothing), new.unwrap_or(&nothing));
    for (kind, status) in &new.conditions {
        let was = old.conditions.iter().find(|(name, _)| name == kind).map(|(_, was)| was.as_str());
        tell(kind, was, Some(status));
    }
    for row in &new.rows {
        let absent = Row::default();
        let was = old.rows.iter().find(|old| old.name == row.name).unwrap_or(&absent);
        let name = |what: &str| format!("{} {what}", row.name);
        tell(&name("desired"), was.desired.as_deref(), row.desired.as_deref());
        tell(&name("reported"), was.reported.as_deref(), row.reported.as_deref());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        View {
            problem: None,
            node: "Ready".into(),
            device: Some(DeviceView {
                state: "online".into(),
                conditions: vec![
                    ("ModelResolved".into(), "True".into()),
                    ("Delivered".into(), "True".into()),
                    ("Accepted".into(), "True".into()),
                    ("Converged".into(), "False (Writing)".into()),
                ],
                rows: vec![Row {
                    name: "setpoint".into(),
                    desired: Some("65".into()),
                    reported: Some("65.00000095367432".into()),
                    sampled_ms: Some(9_700),
                    actual: Some("65.0".into()),
                }],
            }),
        }
    }

    #[test]
    fn the_table_reads_as_written_here() {
        assert_eq!(
            table(&view(), Duration::from_secs(3), 10_000),
            "\
node demo-gateway: Ready   up 3 s
device default/boiler-1: online
  ModelResolved=True  Delivered=True  Accepted=True
  Converged=False (Writing)

  PROPERTY         DESIRED   REPORTED      AGE    IN DEVICE
  setpoint              65     65.000    0.3 s         65.0

Ctrl-C stops everything and removes it.
"
        );
    }

    #[test]
    fn only_what_differs_is_told() {
        let before = view();
        let mut after = view();
        assert!(changes(Some(&before), &after).is_empty());
        let device = after.device.as_mut().unwrap();
        device.rows[0].desired = Some("72".into());
        device.conditions[3].1 = "True".into();
        assert_eq!(
            changes(Some(&before), &after),
            ["Converged: False (Writing) -> True", "setpoint desired: 65 -> 72"]
        );
        after.device = None;
        assert_eq!(changes(Some(&before), &after), ["device: online -> none"]);
        assert_eq!(changes(None, &before).len(), 8);
    }
}

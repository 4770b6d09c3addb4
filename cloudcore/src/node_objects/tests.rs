use super::*;

const LEASE: Duration = Duration::from_secs(40);

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn up(session: u64) -> NodeEvent {
    NodeEvent::Up { node: node("a"), session: SessionId(session) }
}

fn down(session: u64) -> NodeEvent {
    NodeEvent::Down { node: node("a"), session: SessionId(session) }
}

struct Story {
    keeper: Keeper,
    now: Now,
}

impl Story {
    fn new() -> Self {
        Self { keeper: Keeper::new(LEASE), now: clock::now() }
    }

    fn after(&mut self, passed: Duration) -> &mut Self {
        self.now.instant += passed;
        self
    }

    fn hears(&mut self, event: NodeEvent) -> &mut Self {
        self.keeper.event(event, self.now);
        self
    }

    fn does(&mut self, expected: Option<Task>) -> &mut Self {
        self.tries(expected, true)
    }

    fn tries(&mut self, expected: Option<Task>, well: bool) -> &mut Self {
        let task = self.keeper.next_task(self.now);
        assert_eq!(task.as_ref().map(|(_, task)| *task), expected);
        if let Some((node, task)) = task {
            self.keeper.done(&node, task, well, self.now);
        }
        self
    }
}

#[test]
fn a_session_makes_the_node_ready_and_renews_its_lease_four_times_per_duration() {
    let mut story = Story::new();
    story.hears(up(1)).does(Some(Task::Ready)).does(None);
    for _ in 0..3 {
        story.after(LEASE / 4).does(Some(Task::Renew)).does(None);
    }
}

#[test]
fn a_node_is_unknown_a_lease_after_its_session_and_ready_again_with_the_next() {
    let mut story = Story::new();
    story.hears(up(1)).does(Some(Task::Ready));
    story.after(LEASE / 2).hears(down(1)).does(None);
    story.after(LEASE - Duration::from_millis(1)).does(None);
    story.after(Duration::from_millis(1)).does(Some(Task::Unknown)).does(None);
    story.after(LEASE).does(None);
    story.hears(up(2)).does(Some(Task::Ready));
}

#[test]
fn a_short_break_changes_nothing() {
    let mut story = Story::new();
    story.hears(up(1)).does(Some(Task::Ready)).hears(down(1));
    story.after(LEASE / 2).hears(up(2)).does(Some(Task::Ready));
    story.after(LEASE / 4).does(Some(Task::Renew));
}

#[test]
fn the_end_of_a_superseded_session_is_not_the_end_of_the_node() {
    let mut story = Story::new();
    story.hears(up(1)).does(Some(Task::Ready)).hears(up(2)).does(Some(Task::Ready)).hears(down(1));
    story.after(2 * LEASE).does(Some(Task::Renew));
}

#[test]
fn what_fails_is_tried_again() {
    let mut story = Story::new();
    story.hears(up(1)).tries(Some(Task::Ready), false).does(None);
    story.after(RETRY).does(Some(Task::Ready));
}

#[test]
fn a_node_found_ready_after_a_restart_has_one_lease_to_come_back() {
    let mut story = Story::new();
    story.keeper.found(node("a"), story.now);
    story.does(None).after(LEASE).does(Some(Task::Unknown)).after(LEASE).does(None);
    assert!(story.keeper.nodes.is_empty(), "nothing is kept of a node that is gone");
}

#[test]
fn events_during_a_write_are_not_lost() {
    let mut story = Story::new();
    story.hears(up(1));
    let (name, task) = story.keeper.next_task(story.now).unwrap();
    story.hears(down(1)).does(None);
    story.keeper.done(&name, task, true, story.now);
    story.after(LEASE).does(Some(Task::Unknown));
}

#[test]
fn the_lease_time_is_in_microseconds() {
    assert_eq!(micro_time(1_795_000_000_123), "2026-11-18T11:06:40.123000Z");
}

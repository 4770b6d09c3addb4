//! `status.conditions`: setting one, and saying whether that changed anything. Pure.

use serde_json::{Value, json};

/// Sets a condition; its transition time moves only when its status does.
pub fn set(
    object: &mut Value,
    kind: &str,
    status: bool,
    reason: &str,
    message: &str,
    now: &str,
) -> bool {
    let status = if status { "True" } else { "False" };
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = json!([]);
    }
    let Some(list) = object["status"]["conditions"].as_array_mut() else { return false };
    let mut condition = json!({"type": kind, "status": status, "reason": reason,
                               "message": message, "lastTransitionTime": now});
    let Some(old) = list.iter_mut().find(|old| old["type"] == kind) else {
        list.push(condition);
        return true;
    };
    if old["status"] == status {
        condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
    }
    let changed = *old != condition;
    *old = condition;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let mut object = json!({});
        assert!(set(&mut object, "Ready", true, "A", "", "t1"));
        assert!(!set(&mut object, "Ready", true, "A", "", "t2"));
        assert!(set(&mut object, "Ready", true, "B", "", "t3"));
        assert_eq!(object["status"]["conditions"][0]["lastTransitionTime"], "t1");
        assert!(set(&mut object, "Ready", false, "B", "", "t4"));
        assert_eq!(object["status"]["conditions"][0]["lastTransitionTime"], "t4");
    }
}

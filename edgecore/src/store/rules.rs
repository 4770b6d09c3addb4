//! What becomes of an object that arrives, given the one that is held. Pure.

use hub_proto::id::Revision;

/// What identifies the held version of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The object's uid; empty if its sender did not say.
    pub uid: String,
    /// Its revision; zero if its sender did not say.
    pub revision: Revision,
}

/// What is to be done with an arrival. All of them are acked: each leaves the store as the cloud
/// wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Put the arrival in place of what is held, if anything is.
    Replace,
    /// Remove what is held.
    Remove,
    /// Nothing: what is held is as new or newer, or there is nothing to remove.
    Keep,
}

/// Decides about an object that is to be held.
///
/// Another uid is another object and replaces. Under the same uid only a newer revision does: a
/// message that was repeated or overtaken changes nothing. An arrival that does not say its revision
/// is taken, for an upstream cloud may leave it out.
#[must_use]
pub fn upsert(held: Option<&Held>, uid: Option<&str>, revision: Option<Revision>) -> Decision {
    let Some(held) = held else { return Decision::Replace };
    let same_object = uid.is_none_or(|uid| held.uid.is_empty() || uid == held.uid);
    match revision {
        Some(revision) if same_object && revision <= held.revision => Decision::Keep,
        Some(_) | None => Decision::Replace,
    }
}

/// Decides about a deletion: one that names another uid is about an object that is already gone.
#[must_use]
pub fn delete(held: Option<&Held>, uid: Option<&str>) -> Decision {
    match held {
        Some(held) if uid.is_none_or(|uid| held.uid.is_empty() || uid == held.uid) => {
            Decision::Remove
        }
        Some(_) | None => Decision::Keep,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held(uid: &str, revision: u64) -> Held {
        Held { uid: uid.into(), revision: Revision(revision) }
    }

    #[test]
    fn a_newer_revision_replaces_and_an_older_or_equal_one_does_not() {
        let old = held("u", 5);
        assert_eq!(upsert(Some(&old), Some("u"), Some(Revision(6))), Decision::Replace);
        assert_eq!(upsert(Some(&old), Some("u"), Some(Revision(5))), Decision::Keep);
        assert_eq!(upsert(Some(&old), Some("u"), Some(Revision(4))), Decision::Keep);
        assert_eq!(upsert(Some(&old), None, Some(Revision(4))), Decision::Keep);
        assert_eq!(upsert(Some(&old), Some("u"), None), Decision::Replace);
        assert_eq!(upsert(None, Some("u"), Some(Revision(1))), Decision::Replace);
    }

    #[test]
    fn a_recreated_object_replaces_whatever_its_revision() {
        assert_eq!(upsert(Some(&held("u", 9)), Some("v"), Some(Revision(2))), Decision::Replace);
    }

    #[test]
    fn a_deletion_of_a_predecessor_leaves_the_successor() {
        assert_eq!(delete(Some(&held("v", 9)), Some("u")), Decision::Keep);
        assert_eq!(delete(Some(&held("v", 9)), Some("v")), Decision::Remove);
        assert_eq!(delete(Some(&held("v", 9)), None), Decision::Remove);
        assert_eq!(delete(None, Some("v")), Decision::Keep);
    }

    proptest! {
        #[test]
        fn no_order_of_repeats_regresses_an_object(order in proptest::collection::vec(1u64..20, 1..60)) {
            let mut current: Option<Held> = None;
            for revision in &order {
                if upsert(current.as_ref(), Some("u"), Some(Revision(*revision))) == Decision::Replace {
                    current = Some(held("u", *revision));
                }
            }
            prop_assert_eq!(current.unwrap().revision.0, *order.iter().max().unwrap());
        }
    }
}

//! The envelope: one JSON document per websocket message, to bytes and back.
//!
//! Upstream ends a message with a newline and a reader ignores what follows the first document; we
//! do the same. Unknown keys are ignored, so that a newer peer can add some.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The largest message that is read. A Kubernetes object stays under 3 MiB (the API server's own
/// limit), and JSON in JSON can grow it; past this the peer is not speaking our protocol.
pub const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;

/// Why bytes are not an envelope.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`MAX_MESSAGE_BYTES`].
    #[error("message of {0} bytes is over the limit of {MAX_MESSAGE_BYTES}")]
    TooLarge(usize),
    /// Not JSON, or not this document.
    #[error("message is not an envelope: {0}")]
    Malformed(#[source] serde_json::Error),
}

/// One message as it stands on the wire.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// Identity, time, revision.
    pub header: Header,
    /// Who, what, about which resource.
    pub route: Route,
    /// The payload; any JSON value.
    #[serde(default = "null")]
    pub content: Box<RawValue>,
}

/// The `header` of an [`Envelope`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Unique; an ack repeats it as the parent.
    pub msg_id: String,
    /// The message this one answers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub parent_msg_id: String,
    /// Milliseconds since the Unix epoch.
    #[serde(default)]
    pub timestamp: i64,
    /// resourceVersion of the object in the content.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resourceversion: String,
}

/// The `route` of an [`Envelope`]. Strings as a peer wrote them; [`crate::message`] gives them types.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// See [`crate::wire::Source`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// See [`crate::wire::Group`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// See [`crate::wire::Operation`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub operation: String,
    /// See [`crate::wire::Resource`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource: String,
}

impl Envelope {
    /// Reads one message. Bytes after the document are ignored, as upstream does.
    ///
    /// # Errors
    /// Too large, not JSON, or without header and route.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(FrameError::TooLarge(bytes.len()));
        }
        let mut documents = serde_json::Deserializer::from_slice(bytes).into_iter::<Self>();
        match documents.next() {
            Some(result) => result.map_err(FrameError::Malformed),
            None => Err(FrameError::Malformed(serde::de::Error::custom("empty message"))),
        }
    }

    /// Writes the message as upstream does: compact JSON and a newline.
    #[must_use]
    pub fn encode(&self) -> String {
        // Strings and raw JSON cannot fail to serialise; an empty text would be refused by any peer.
        let mut text = serde_json::to_string(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A keepalive exactly as an upstream edgecore sends it (196 bytes).
    pub const KEEPALIVE: &str = concat!(
        r#"{"header":{"msg_id":"6d4f6e1a-0c1b-4a55-9a44-0f8a3a3d6c01","timestamp":1754463538000},"#,
        r#""route":{"source":"websocket","group":"resource","operation":"keepalive","#,
        r#""resource":"node"},"content":"ping"}"#,
        "\n"
    );

    #[test]
    fn the_upstream_keepalive_reads_and_writes_to_the_byte() {
        let envelope = Envelope::decode(KEEPALIVE.as_bytes()).unwrap();
        assert_eq!(envelope.route.operation, "keepalive");
        assert_eq!(envelope.header.timestamp, 1_754_463_538_000);
        assert_eq!(envelope.encode(), KEEPALIVE);
        assert_eq!(KEEPALIVE.len(), 196);
    }

    #[test]
    fn a_message_over_the_limit_is_refused_before_it_is_parsed() {
        let big = vec![b' '; MAX_MESSAGE_BYTES + 1];
        assert!(matches!(Envelope::decode(&big), Err(FrameError::TooLarge(_))));
    }

    #[test]
    fn missing_content_is_null_and_trailing_bytes_are_ignored() {
        let text = r#"{"header":{"msg_id":"a"},"route":{"future":1}} trailing"#;
        assert_eq!(Envelope::decode(text.as_bytes()).unwrap().content.get(), "null");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = Envelope::decode(&bytes);
        }

        #[test]
        fn a_cut_message_is_refused_or_whole(cut in 0usize..196) {
            prop_assert_eq!(Envelope::decode(&KEEPALIVE.as_bytes()[..cut]).is_ok(), cut == 195);
        }
    }
}

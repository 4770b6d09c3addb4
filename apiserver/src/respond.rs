//! Answers: turning values and errors into HTTP responses.

mod yaml;

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use serde_json::Value;

use crate::negotiate::Media;
use crate::status::StatusError;

/// The body of every answer.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;
/// Every answer.
pub type Answer = Response<Body>;

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// An answer with a code, a media type and bytes.
pub fn bytes(code: u16, media: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(full(body));
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

pub fn text(code: u16, body: impl Into<Bytes>) -> Answer {
    bytes(code, "text/plain; charset=utf-8", body)
}

pub fn json(code: u16, value: &Value) -> Answer {
    bytes(code, "application/json", value.to_string())
}

/// A value in the accepted media type; `pretty` indents JSON.
pub fn value(code: u16, value: &Value, media: Media, pretty: bool) -> Answer {
    match media {
        Media::Json if pretty => {
            let text = serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string());
            bytes(code, "application/json", text)
        }
        Media::Json => json(code, value),
        Media::Yaml => bytes(code, "application/yaml", yaml::text(value)),
    }
}

/// An error as a Status.
pub fn status(error: &StatusError) -> Answer {
    let mut body = error.to_value();
    // An expired list says how to go on, and says it in its metadata.
    if error.code == 410
        && let Some(token) = body.pointer("/details/continue").cloned()
        && let Some(map) = body.as_object_mut()
    {
        map.remove("details");
        map.insert("metadata".into(), serde_json::json!({ "continue": token }));
    }
    let mut response = json(error.code, &body);
    if let Some(seconds) = error.retry_after()
        && let Ok(value) = HeaderValue::from_str(&seconds.to_string())
    {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

/// What paths outside of any known group answer.
pub fn page_not_found() -> Answer {
    text(404, "404 page not found\n")
}

/// A stream of chunks, for watches.
pub fn stream(chunks: impl Stream<Item = Bytes> + Send + 'static) -> Answer {
    let frames = chunks.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Adds one Warning header a text; kubectl prints them.
pub fn warn(response: &mut Answer, warnings: &[String]) {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        let printable: String =
            quoted.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{printable}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_quoted_and_never_break_a_header() {
        let mut response = text(200, "");
        warn(&mut response, &["unknown field \"spec.nope\"".into(), "a\nb".into()]);
        let headers: Vec<_> = response.headers().get_all(header::WARNING).iter().collect();
        assert_eq!(headers[0], "299 - \"unknown field \\\"spec.nope\\\"\"");
        assert_eq!(headers[1], "299 - \"a b\"");
    }
}

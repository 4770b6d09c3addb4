//! Lets every gRPC client in over a Unix socket.
//!
//! The HTTP/2 code below tonic refuses a request whose `:authority` is not a host name. Most gRPC
//! libraries put the path of the socket there: grpc-go when it dials a path (every KubeEdge mapper and
//! edgecore do), the C core (Python, C++, Ruby) and Java. Without help none of them gets further than
//! `PROTOCOL_ERROR`. A connection wrapped in [`AnyAuthority`] has that value overwritten on its way in,
//! byte for byte, so that no length, frame or compression state changes. Nobody reads the value: a
//! socket serves one thing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// A connection whose client may say any `:authority`.
#[derive(Debug)]
pub struct AnyAuthority<S> {
    stream: S,
    overwrite: Overwrite,
}

impl<S> AnyAuthority<S> {
    /// Wraps a connection from which nothing has been read.
    #[must_use]
    pub fn new(stream: S) -> Self {
        Self { stream, overwrite: Overwrite::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AnyAuthority<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some(fresh) = buf.filled_mut().get_mut(before..) {
            self.overwrite.pass(fresh);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AnyAuthority<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<S: Connected> Connected for AnyAuthority<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

/// `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`, what a client says first (RFC 9113, 3.4).
const PREFACE_BYTES: u32 = 24;
const FRAME_HEAD_BYTES: usize = 9;
const FRAME_HEADERS: u8 = 1;
const FRAME_CONTINUATION: u8 = 9;
const FLAG_PADDED: u8 = 0x08;
const FLAG_PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: u32 = 5;

const AUTHORITY: &[u8] = b":authority";
/// Its place in the table that every HTTP/2 peer has (RFC 7541, appendix A).
const AUTHORITY_INDEX: u8 = 1;
/// Any host name will do.
const FILLER: u8 = b'x';

/// Reads what a client sends, in pieces of any size, and overwrites the value of each `:authority`.
///
/// Knows just enough of HTTP/2 to find it. What it does not understand it leaves as it is; judging is
/// the business of whoever reads the bytes next. Holds a few numbers, whatever the client claims.
///
/// The overwritten value is as long on the wire and not longer when decompressed, so the reader's
/// compression table never drops an entry that the client still counts on. A name that is itself
/// compressed, or is taken from the dynamic table, is not recognised; no known client does either
/// for a name of the static table.
#[derive(Debug)]
struct Overwrite {
    at: At,
    field: Field,
}

/// Where in the stream of frames.
#[derive(Clone, Copy, Debug)]
enum At {
    /// Bytes that do not matter, then a frame.
    Skip(u32),
    /// The first bytes of a frame.
    Head { bytes: [u8; FRAME_HEAD_BYTES], have: usize },
    /// The length of the padding at the end of this frame.
    PadLength { left: u32, priority: u32 },
    /// Header fields.
    Block { skip: u32, left: u32, padding: u32 },
}

/// Where in the header fields (RFC 7541, 6). Carries on over CONTINUATION frames.
#[derive(Clone, Copy, Debug)]
enum Field {
    /// At its first byte.
    Start,
    /// In a number that does not matter, of a field that ends with it or that has a value.
    Number { value_follows: bool },
    /// At the first byte of a length.
    Length(Text),
    /// At a further byte of it.
    LengthMore { text: Text, length: u64, shift: u32 },
    /// In a text.
    Text { text: Text, left: u64, at: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    /// A name, so far `:authority` or not.
    Name { authority: bool },
    /// A value, of `:authority` or not.
    Value { authority: bool },
}

impl Default for Overwrite {
    fn default() -> Self {
        Self { at: At::Skip(PREFACE_BYTES), field: Field::Start }
    }
}

impl Overwrite {
    /// Overwrites in the next bytes of the stream.
    fn pass(&mut self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = self.step(rest);
            rest = rest.get_mut(used..).unwrap_or_default();
        }
    }

    /// Deals with the start of `bytes`, which are not none; returns with how many of them, at least 1.
    fn step(&mut self, bytes: &mut [u8]) -> usize {
        let Some(first) = bytes.first_mut() else { return 1 };
        match self.at {
            At::Skip(left) => {
                let here = left.min(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                self.at = skip(left - here);
                usize::try_from(here).unwrap_or(1).max(1)
            }
            At::Head { bytes: mut head, have } => {
                if let Some(place) = head.get_mut(have) {
                    *place = *first;
                }
                self.at = if have + 1 < FRAME_HEAD_BYTES {
                    At::Head { bytes: head, have: have + 1 }
                } else {
                    self.frame(&head)
                };
                1
            }
            At::PadLength { left, priority } => {
                self.at = block(priority, left.saturating_sub(1), u32::from(*first));
                1
            }
            At::Block { skip, left, padding } => {
                if skip == 0 {
                    self.field = self.field.next(first);
                }
                self.at = block(skip.saturating_sub(1), left.saturating_sub(1), padding);
                1
            }
        }
    }

    fn frame(&mut self, head: &[u8; FRAME_HEAD_BYTES]) -> At {
        let [a, b, c, kind, flags, ..] = *head;
        let left = u32::from_be_bytes([0, a, b, c]);
        match kind {
            FRAME_HEADERS => {
                self.field = Field::Start;
                let priority = if flags & FLAG_PRIORITY == 0 { 0 } else { PRIORITY_BYTES };
                if flags & FLAG_PADDED == 0 {
                    block(priority, left, 0)
                } else if left == 0 {
                    skip(0)
                } else {
                    At::PadLength { left, priority }
                }
            }
            FRAME_CONTINUATION => block(0, left, 0),
            _ => skip(left),
        }
    }
}

fn skip(left: u32) -> At {
    if left == 0 { At::Head { bytes: [0; FRAME_HEAD_BYTES], have: 0 } } else { At::Skip(left) }
}

/// Header fields in the next `left` bytes of a frame, but for the first `skip` and the last `padding`.
fn block(skipped: u32, left: u32, padding: u32) -> At {
    if left <= padding { skip(left) } else { At::Block { skip: skipped, left, padding } }
}

impl Field {
    fn next(self, byte: &mut u8) -> Self {
        match self {
            Self::Start => Self::first(*byte),
            Self::Number { value_follows } => match (*byte & 0x80 != 0, value_follows) {
                (true, _) => self,
                (false, true) => Self::Length(Text::Value { authority: false }),
                (false, false) => Self::Start,
            },
            Self::Length(text) => {
                let compressed = *byte & 0x80 != 0;
                let length = *byte & 0x7f;
                let text = match text {
                    Text::Value { authority: true } => {
                        *byte = length;
                        text
                    }
                    Text::Name { authority: true } if compressed => Text::Name { authority: false },
                    Text::Name { .. } | Text::Value { .. } => text,
                };
                if length == 0x7f {
                    Self::LengthMore { text, length: 0x7f, shift: 0 }
                } else {
                    text.start(u64::from(length))
                }
            }
            Self::LengthMore { text, length, shift } => {
                let more = u64::from(*byte & 0x7f).checked_shl(shift).unwrap_or(u64::MAX);
                let length = length.saturating_add(more);
                if *byte & 0x80 == 0 {
                    text.start(length)
                } else {
                    Self::LengthMore { text, length, shift: shift.saturating_add(7) }
                }
            }
            Self::Text { text, left, at } => {
                let text = match text {
                    Text::Name { authority } => {
                        Text::Name { authority: authority && AUTHORITY.get(at) == Some(byte) }
                    }
                    Text::Value { authority } => {
                        if authority {
                            *byte = FILLER;
                        }
                        text
                    }
                };
                if left > 1 {
                    Self::Text { text, left: left - 1, at: at.saturating_add(1) }
                } else {
                    text.end(at.saturating_add(1))
                }
            }
        }
    }

    /// The first byte of a field says which form it has and starts the number of its name.
    fn first(byte: u8) -> Self {
        let (mask, value_follows) = match byte.leading_zeros() {
            0 => (0x7f, false),
            1 => (0x3f, true),
            2 => (0x1f, false),
            _ => (0x0f, true),
        };
        let number = byte & mask;
        if number == mask {
            Self::Number { value_follows }
        } else if !value_follows {
            Self::Start
        } else if number == 0 {
            Self::Length(Text::Name { authority: true })
        } else {
            Self::Length(Text::Value { authority: number == AUTHORITY_INDEX })
        }
    }
}

impl Text {
    fn start(self, left: u64) -> Field {
        if left == 0 { self.end(0) } else { Field::Text { text: self, left, at: 0 } }
    }

    /// After a text of `length` bytes.
    fn end(self, length: usize) -> Field {
        match self {
            Self::Name { authority } => {
                Field::Length(Self::Value { authority: authority && length == AUTHORITY.len() })
            }
            Self::Value { .. } => Field::Start,
        }
    }
}

#[cfg(test)]
mod tests;

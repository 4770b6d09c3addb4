//! One GET over a stream that is already open. Enough to ask a daemon how it is.

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// More than any answer that keadm asks for.
const LARGEST_BODY: usize = 4 << 20;

/// Asks `path` over `stream`; returns the status code and the body.
///
/// # Errors
/// The stream breaks, the answer is not HTTP, or it is larger than 4 MiB.
pub async fn get<S>(stream: S, host: &str, path: &str) -> anyhow::Result<(u16, Vec<u8>)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("HTTP")?;
    let request = hyper::Request::get(path)
        .header(hyper::header::HOST, host)
        .body(Empty::<Bytes>::new())
        .context("HTTP request")?;
    let exchange = async {
        let answer = sender.send_request(request).await.context("HTTP")?;
        let status = answer.status().as_u16();
        match Limited::new(answer.into_body(), LARGEST_BODY).collect().await {
            Ok(body) => Ok((status, body.to_bytes().to_vec())),
            Err(error) => bail!("reading the answer: {error}"),
        }
    };
    // The connection has to be polled for the exchange to move; it ends with it.
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        closed = connection => {
            closed.context("HTTP connection")?;
            exchange.await
        }
    }
}

/// Asks `http://address/path`.
///
/// # Errors
/// As [`get`], or nobody listens there.
pub async fn get_plain(address: &str, path: &str) -> anyhow::Result<(u16, Vec<u8>)> {
    let stream =
        TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
    get(stream, address, path).await
}

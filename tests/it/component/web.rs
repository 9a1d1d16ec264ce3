//! A small HTTP server that does what a test tells it to, good or bad.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request, without its body.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// With the query.
    pub path: String,
    /// Names in small letters.
    pub headers: HashMap<String, String>,
    /// Which request of this path it is, from 1.
    pub count: usize,
}

#[derive(Clone)]
pub struct Server {
    /// `http://ADDRESS:PORT`
    pub base: String,
    seen: Arc<Mutex<Vec<Asked>>>,
}

impl Asked {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// An answer. `extra` are header lines, each with its end.
pub fn reply(status: &str, extra: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{extra}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// The rest of a file, as asked for with Range; None: all of it was asked for.
pub fn rest(asked: &Asked, body: &[u8]) -> Option<Vec<u8>> {
    let from = asked.header("range").strip_prefix("bytes=")?.strip_suffix('-')?;
    let from: usize = from.parse().unwrap();
    let extra = format!("Content-Range: bytes {from}-{}/{}\r\n", body.len() - 1, body.len());
    Some(reply("206 Partial Content", &extra, &body[from..]))
}

impl Server {
    pub async fn start(answer: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static) -> Server {
        Server::start_on("127.0.0.1", answer).await
    }

    /// On another loopback address.
    pub async fn start_on(
        address: &str,
        answer: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let server = Server { base, seen: Arc::default() };
        let (own, answer) = (server.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (own, answer) = (own.clone(), answer.clone());
                tokio::spawn(async move { own.serve(stream, &*answer).await });
            }
        });
        server
    }

    async fn serve(self, mut stream: TcpStream, answer: &(dyn Fn(&Asked) -> Vec<u8> + Send + Sync)) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut first = head.split(' ');
        let (method, path) = (first.next().unwrap().to_owned(), first.next().unwrap().to_owned());
        let headers: HashMap<String, String> = head
            .lines()
            .filter_map(|l| l.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let asked = {
            let mut seen = self.seen.lock().unwrap();
            let count = seen.iter().filter(|a| a.path == path).count() + 1;
            seen.push(Asked { method, path, headers, count });
            seen.last().unwrap().clone()
        };
        let _ = stream.write_all(&answer(&asked)).await;
        let _ = stream.shutdown().await;
    }

    /// What was asked for under this path.
    pub fn asked(&self, path: &str) -> Vec<Asked> {
        self.seen.lock().unwrap().iter().filter(|a| a.path == path).cloned().collect()
    }

    pub fn all(&self) -> Vec<Asked> {
        self.seen.lock().unwrap().clone()
    }
}

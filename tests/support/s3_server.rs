//! An S3 server in memory, with what the recording store uses: objects, ranges, uploads in parts, copies, lists and deletes.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, Response, StatusCode, Uri};
use futures_util::stream::{self, StreamExt as _};
use tokio::task::JoinSet;

/// The running server. It stops when it is dropped.
pub struct S3Server {
    pub url: String,
    pub bucket: Arc<S3Bucket>,
    _server: JoinSet<()>,
}

/// What the bucket holds; every bucket name leads to it.
#[derive(Default)]
pub struct S3Bucket {
    objects: Mutex<BTreeMap<String, Bytes>>,
    uploads: Mutex<BTreeMap<String, BTreeMap<usize, Bytes>>>,
    ids: AtomicUsize,
    /// Refuses all requests with 503 while it is set.
    pub is_down: AtomicBool,
    /// Keeps only the sizes of parts, so that a recording may be longer than memory.
    pub keeps_no_parts: AtomicBool,
    /// Every response with more of an object breaks off after so many bytes; 0 for never.
    pub cut_after: AtomicUsize,
}

impl S3Server {
    pub async fn start() -> S3Server {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let bucket = Arc::new(S3Bucket::default());
        let router = Router::new().fallback(handle).with_state(bucket.clone());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.expect("a server") });
        S3Server { url, bucket, _server: server }
    }

    /// The options of a store in this server.
    pub fn options(&self) -> Vec<(&'static str, String)> {
        vec![
            ("aws_endpoint", self.url.clone()),
            ("aws_allow_http", "true".to_owned()),
            ("aws_region", "us-east-1".to_owned()),
            ("aws_access_key_id", "test".to_owned()),
            ("aws_secret_access_key", "test".to_owned()),
        ]
    }
}

fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl S3Bucket {
    /// The names of all objects.
    pub fn names(&self) -> Vec<String> {
        lock(&self.objects).keys().cloned().collect()
    }

    pub fn object(&self, name: &str) -> Option<Bytes> {
        lock(&self.objects).get(name).cloned()
    }

    pub fn put(&self, name: &str, bytes: Bytes) {
        lock(&self.objects).insert(name.to_owned(), bytes);
    }

    pub fn remove(&self, name: &str) {
        lock(&self.objects).remove(name);
    }

    /// The number of uploads in parts that were neither completed nor aborted.
    pub fn open_uploads(&self) -> usize {
        lock(&self.uploads).len()
    }

    /// The number of parts of all open uploads.
    pub fn open_parts(&self) -> usize {
        lock(&self.uploads).values().map(BTreeMap::len).sum()
    }

    fn answer(&self, method: &Method, uri: &Uri, copied: Option<&str>, range: Option<&str>, body: Bytes) -> Answer {
        let path = percent_decode(uri.path());
        let key = path.trim_start_matches('/').split_once('/').map_or("", |(_, key)| key).to_owned();
        let query: BTreeMap<String, String> =
            form_urlencoded::parse(uri.query().unwrap_or("").as_bytes()).into_owned().collect();
        let upload = query.get("uploadId").cloned();
        match (method, upload) {
            (&Method::POST, None) if query.contains_key("uploads") => {
                let id = format!("upload-{}", self.ids.fetch_add(1, Ordering::Relaxed));
                lock(&self.uploads).insert(id.clone(), BTreeMap::new());
                Answer::xml(format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                ))
            }
            (&Method::PUT, Some(id)) => {
                let number = query.get("partNumber").and_then(|number| number.parse().ok()).expect("a part number");
                let kept = if self.keeps_no_parts.load(Ordering::Relaxed) { Bytes::new() } else { body };
                match lock(&self.uploads).get_mut(&id) {
                    Some(parts) => {
                        parts.insert(number, kept);
                        Answer::tagged()
                    }
                    None => Answer::status(404),
                }
            }
            (&Method::POST, Some(id)) => match lock(&self.uploads).remove(&id) {
                Some(parts) => {
                    let whole: Vec<u8> = parts.into_values().flatten().collect();
                    lock(&self.objects).insert(key, whole.into());
                    Answer::xml(
                        "<CompleteMultipartUploadResult><ETag>\"e\"</ETag></CompleteMultipartUploadResult>".to_owned(),
                    )
                }
                None => Answer::status(404),
            },
            (&Method::DELETE, Some(id)) => {
                Answer::status(if lock(&self.uploads).remove(&id).is_some() { 204 } else { 404 })
            }
            (&Method::POST, None) if query.contains_key("delete") => {
                let text = String::from_utf8_lossy(&body).into_owned();
                let mut deleted = String::new();
                for name in text.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()) {
                    lock(&self.objects).remove(name);
                    deleted += &format!("<Deleted><Key>{name}</Key></Deleted>");
                }
                Answer::xml(format!("<DeleteResult>{deleted}</DeleteResult>"))
            }
            (&Method::PUT, None) => match copied {
                Some(source) => {
                    let source = percent_decode(source);
                    let from = source.trim_start_matches('/').split_once('/').map_or("", |(_, key)| key);
                    let Some(bytes) = self.object(from) else { return Answer::status(404) };
                    self.put(&key, bytes);
                    Answer::xml("<CopyObjectResult><ETag>\"e\"</ETag></CopyObjectResult>".to_owned())
                }
                None => {
                    self.put(&key, body);
                    Answer::tagged()
                }
            },
            (&Method::GET, None) if query.contains_key("list-type") => {
                self.list(query.get("prefix").map_or("", |prefix| prefix))
            }
            (&Method::GET | &Method::HEAD, None) => match self.object(&key) {
                Some(bytes) => Answer::object(bytes, range, method == Method::HEAD),
                None => Answer::status(404),
            },
            (&Method::DELETE, None) => {
                self.remove(&key);
                Answer::status(204)
            }
            other => panic!("no such request: {other:?} {uri}"),
        }
    }

    fn list(&self, prefix: &str) -> Answer {
        let row = |(name, bytes): (&String, &Bytes)| {
            format!(
                "<Contents><Key>{name}</Key><Size>{}</Size><LastModified>2020-01-01T00:00:00.000Z</LastModified><ETag>\"e\"</ETag></Contents>",
                bytes.len()
            )
        };
        let rows: String = lock(&self.objects).iter().filter(|(name, _)| name.starts_with(prefix)).map(row).collect();
        Answer::xml(format!("<ListBucketResult>{rows}</ListBucketResult>"))
    }
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Answer {
    fn status(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), body: Bytes::new() }
    }

    fn tagged() -> Answer {
        Answer { headers: vec![("etag", "\"e\"".to_owned())], ..Answer::status(200) }
    }

    fn xml(text: String) -> Answer {
        Answer { headers: vec![("content-type", "application/xml".to_owned())], body: text.into(), status: 200 }
    }

    fn object(bytes: Bytes, range: Option<&str>, is_head: bool) -> Answer {
        let mut headers =
            vec![("etag", "\"e\"".to_owned()), ("last-modified", "Wed, 01 Jan 2020 00:00:00 GMT".to_owned())];
        let asked = range.and_then(|range| {
            let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()?))
        });
        let (status, part) = match asked {
            Some((from, to)) => {
                let to = (to + 1).min(bytes.len());
                headers.push(("content-range", format!("bytes {from}-{}/{}", to - 1, bytes.len())));
                (206, bytes.slice(from..to))
            }
            None => (200, bytes),
        };
        headers.push(("content-length", part.len().to_string()));
        Answer { status, headers, body: if is_head { Bytes::new() } else { part } }
    }
}

async fn handle(State(bucket): State<Arc<S3Bucket>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 64 << 20).await.unwrap_or_default();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let answer = match bucket.is_down.load(Ordering::Relaxed) {
        true => Answer::status(503),
        false => bucket.answer(&parts.method, &parts.uri, header("x-amz-copy-source"), header("range"), body),
    };
    let is_object = parts.method == Method::GET && answer.headers.iter().any(|(name, _)| *name == "content-length");
    let cut_after = bucket.cut_after.load(Ordering::Relaxed);
    let is_cut = is_object && cut_after > 0 && answer.body.len() > cut_after;
    let mut response = Response::builder().status(StatusCode::from_u16(answer.status).expect("a status"));
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    let body = if is_cut { cut_off(answer.body.slice(..cut_after)) } else { Body::from(answer.body) };
    response.body(body).expect("a response")
}

/// A body that breaks off after this part.
fn cut_off(part: Bytes) -> Body {
    let part = stream::once(async move { Ok::<Bytes, io::Error>(part) });
    let error = stream::once(async {
        // Lets the part be sent before the error.
        tokio::task::yield_now().await;
        Err::<Bytes, io::Error>(io::ErrorKind::BrokenPipe.into())
    });
    Body::from_stream(part.chain(error))
}

fn percent_decode(text: &str) -> String {
    let pairs = format!("key={}", text.replace('+', "%2B"));
    form_urlencoded::parse(pairs.as_bytes()).next().map_or_else(String::new, |(_, value)| value.into_owned())
}

//! Requests in, answers out: which operation it is, its conditions and its delay.
//!
//! Owns: [`Server::answer`] and the operations.
//! Invariants: each request is counted once and delayed once, also if it fails; `/-/…` is neither.
//! Signatures are not checked.
//! Must never know: sockets, how listings are computed.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;

use crate::body::{Refused, Served, receive};
use crate::bucket::{Bucket, ListQuery, Object, bound_after};
use crate::content::Content;
use crate::counts::{Kind, Meter};
use crate::documents::{
    Asked, ListEcho, asked, document, element, error, list_result, read_items, read_token, timestamp,
};

const PAGE_KEYS_MAX: usize = 1000;

/// What is shared by all connections.
#[derive(Debug)]
pub struct Server {
    pub name: String,
    pub bucket: Mutex<Bucket>,
    pub meter: Arc<Meter>,
}

type Answer = Response<Served>;

/// The parts of a request that the operations look at.
struct Asking {
    method: Method,
    /// Decoded; empty: the bucket itself.
    key: String,
    query: HashMap<String, String>,
    headers: HeaderMap,
}

impl Asking {
    fn has(&self, name: &str) -> bool {
        self.query.contains_key(name)
    }

    fn param(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn kind(&self) -> Kind {
        let has = |name| self.has(name);
        let copies = self.headers.contains_key("x-amz-copy-source");
        match (self.method.as_str(), self.key.is_empty()) {
            ("GET", true) if self.is_listing() => Kind::List,
            ("POST", true) if has("delete") => Kind::DeleteObjects,
            (_, true) => Kind::Other,
            ("GET", false) if self.is_plain() => Kind::Get,
            ("HEAD", false) => Kind::Head,
            ("PUT", false) if has("partNumber") => {
                if copies {
                    Kind::PartCopy
                } else {
                    Kind::Part
                }
            }
            ("PUT", false) if copies => Kind::Copy,
            ("PUT", false) if self.is_plain() => Kind::Put,
            ("DELETE", false) if has("uploadId") => Kind::Abort,
            ("DELETE", false) if self.is_plain() => Kind::Delete,
            ("POST", false) if has("uploads") => Kind::CreateMultipart,
            ("POST", false) if has("uploadId") => Kind::Complete,
            _ => Kind::Other,
        }
    }

    /// Of an object itself, not of one of its settings. `x-id` is the SDKs' own note.
    fn is_plain(&self) -> bool {
        self.query
            .keys()
            .all(|name| name == "x-id" || name.starts_with("response-") || name.starts_with("X-Amz-"))
    }

    fn is_listing(&self) -> bool {
        const NAMES: [&str; 13] = [
            "list-type",
            "prefix",
            "delimiter",
            "marker",
            "max-keys",
            "encoding-type",
            "start-after",
            "continuation-token",
            "fetch-owner",
            "x-id",
            "allow-unordered",
            "metadata",
            "optional-object-attributes",
        ];
        self.query.keys().all(|name| NAMES.contains(&name.as_str()))
    }
}

fn bad(code: &'static str) -> Refused {
    (code, String::new())
}

fn status_of(code: &str) -> StatusCode {
    match code {
        "NoSuchKey" | "NoSuchBucket" | "NoSuchUpload" | "ObjectLockConfigurationNotFoundError" => {
            StatusCode::NOT_FOUND
        }
        "NotModified" => StatusCode::NOT_MODIFIED,
        "PreconditionFailed" => StatusCode::PRECONDITION_FAILED,
        "InvalidRange" => StatusCode::RANGE_NOT_SATISFIABLE,
        "NotImplemented" => StatusCode::NOT_IMPLEMENTED,
        _ => StatusCode::BAD_REQUEST,
    }
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Served::text(String::new()));
    *answer.status_mut() = status;
    answer
}

fn xml(text: String) -> Answer {
    let mut answer = Response::new(Served::text(text));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    answer
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("ETags, dates and numbers are ASCII")
}

fn with(mut answer: Answer, name: HeaderName, text: &str) -> Answer {
    answer.headers_mut().insert(name, value(text));
    answer
}

/// What an upload says of the object, and a GET repeats.
fn kept_headers(headers: &HeaderMap) -> HeaderMap {
    const KEPT: [&str; 5] =
        ["content-type", "content-disposition", "content-language", "cache-control", "expires"];
    let kept = |name: &HeaderName| KEPT.contains(&name.as_str()) || name.as_str().starts_with("x-amz-meta-");
    headers.iter().filter(|(name, _)| kept(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn matches(condition: &str, etag: &str) -> bool {
    let bare = |text: &str| text.trim().trim_start_matches("W/").trim_matches('"').to_string();
    condition.trim() == "*" || condition.split(',').any(|one| bare(one) == bare(etag))
}

impl Server {
    fn bucket(&self) -> std::sync::MutexGuard<'_, Bucket> {
        self.bucket.lock().expect("no holder panics")
    }

    pub async fn answer(&self, request: Request<Incoming>) -> Result<Answer, Infallible> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().trim_start_matches('/').to_string();
        let query = parts.uri.query().unwrap_or("");
        if let Some(control) = path.strip_prefix("-/") {
            return Ok(self.control(&parts.method, control, query));
        }
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let asking = Asking {
            method: parts.method,
            key: decode(key),
            query: pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (decode(name), decode(&value.replace('+', " "))))
                .collect(),
            headers: parts.headers,
        };
        let kind = asking.kind();
        self.meter.counts.request(kind);
        let outcome = if decode(bucket) == self.name {
            self.operate(&asking, kind, body).await
        } else if path.is_empty() {
            Ok(self.list_buckets())
        } else {
            Err(bad("NoSuchBucket"))
        };
        let delay = self.meter.delays.lock().expect("no holder panics").before(kind);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let answer = outcome.unwrap_or_else(|(code, message)| {
            let status = status_of(code);
            let silent = asking.method == Method::HEAD || status == StatusCode::NOT_MODIFIED;
            let mut answer = if silent { empty(status) } else { xml(error(code, &message, &path)) };
            *answer.status_mut() = status;
            answer
        });
        let answer = with(answer, header::SERVER, "model_s3");
        Ok(with(answer, HeaderName::from_static("x-amz-request-id"), "model"))
    }

    /// `GET /-/counts`, `POST /-/reset`, `POST /-/delays?…`.
    fn control(&self, method: &Method, path: &str, query: &str) -> Answer {
        match (method.as_str(), path) {
            ("GET", "counts") => Response::new(Served::text(self.meter.counts.json())),
            ("POST", "reset") => {
                self.meter.counts.reset();
                empty(StatusCode::OK)
            }
            ("POST", "delays") => match self.meter.delays.lock().expect("no holder panics").set(query) {
                Ok(()) => empty(StatusCode::OK),
                Err(why) => {
                    let mut answer = Response::new(Served::text(why));
                    *answer.status_mut() = StatusCode::BAD_REQUEST;
                    answer
                }
            },
            _ => empty(StatusCode::NOT_FOUND),
        }
    }

    async fn operate(&self, asking: &Asking, kind: Kind, body: Incoming) -> Result<Answer, Refused> {
        let key = asking.key.as_str();
        match kind {
            Kind::Get | Kind::Head => self.get(asking, kind),
            Kind::List => self.list(asking),
            Kind::Put => {
                let received = receive(&asking.headers, body, &self.meter).await?;
                let mut bucket = self.bucket();
                guard(asking, bucket.get(key).as_deref())?;
                let etag = received.etag.clone();
                bucket.put(key, object(received.content, received.etag, kept_headers(&asking.headers)));
                Ok(with(empty(StatusCode::OK), header::ETAG, &etag))
            }
            Kind::Copy => {
                let source = self.copy_source(asking)?;
                guard(asking, self.bucket().get(key).as_deref())?;
                let replace = asking.header("x-amz-metadata-directive") == Some("REPLACE");
                let headers = if replace { kept_headers(&asking.headers) } else { source.headers.clone() };
                let copy = object(source.content.clone(), source.etag.clone(), headers);
                let told = copied("CopyObjectResult", &copy.etag);
                self.bucket().put(key, copy);
                Ok(told)
            }
            Kind::Delete => {
                self.bucket().delete(key);
                Ok(empty(StatusCode::NO_CONTENT))
            }
            Kind::DeleteObjects => {
                let text = self.text(asking, body).await?;
                self.delete_objects(&text)
            }
            Kind::CreateMultipart => {
                let id = self.bucket().create_upload(key, kept_headers(&asking.headers));
                let inside = [element("Bucket", &self.name), element("Key", key), element("UploadId", id)];
                Ok(xml(document("InitiateMultipartUploadResult", &inside.concat())))
            }
            Kind::Part => {
                let received = receive(&asking.headers, body, &self.meter).await?;
                let etag = received.etag.clone();
                self.keep_part(asking, received.etag, received.content)?;
                Ok(with(empty(StatusCode::OK), header::ETAG, &etag))
            }
            Kind::PartCopy => {
                let source = self.copy_source(asking)?;
                let size = source.content.len();
                let content = match asked(asking.header("x-amz-copy-source-range"), size) {
                    Asked::Whole => source.content.clone(),
                    Asked::Part(range) => source.content.slice(range),
                    Asked::Unsatisfiable => return Err(bad("InvalidRange")),
                };
                self.keep_part(asking, source.etag.clone(), content)?;
                Ok(copied("CopyPartResult", &source.etag))
            }
            Kind::Complete => {
                let text = self.text(asking, body).await?;
                self.complete(asking, &text)
            }
            Kind::Abort => {
                let id = asking.param("uploadId");
                let mut bucket = self.bucket();
                bucket.upload(key, id).map_err(bad)?;
                bucket.uploads.remove(id);
                Ok(empty(StatusCode::NO_CONTENT))
            }
            Kind::Other => self.other(asking),
        }
    }

    fn get(&self, asking: &Asking, kind: Kind) -> Result<Answer, Refused> {
        let object = self.bucket().get(&asking.key).ok_or(bad("NoSuchKey"))?;
        if asking.header("if-match").is_some_and(|c| !matches(c, &object.etag)) {
            return Err(bad("PreconditionFailed"));
        }
        if asking.header("if-none-match").is_some_and(|c| matches(c, &object.etag)) {
            return Err(bad("NotModified"));
        }
        let size = object.content.len();
        let (content, range) = match asked(asking.header("range"), size) {
            Asked::Whole => (object.content.clone(), None),
            Asked::Part(range) => (object.content.slice(range.clone()), Some(range)),
            Asked::Unsatisfiable => return Err(bad("InvalidRange")),
        };
        let length = content.len().to_string();
        let mut answer = if kind == Kind::Get {
            let mb_per_second = self.meter.delays.lock().expect("no holder panics").mb_per_second;
            Response::new(Served::object(content, mb_per_second, self.meter.clone()))
        } else {
            empty(StatusCode::OK)
        };
        if let Some(range) = range {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            let told = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            answer.headers_mut().insert(header::CONTENT_RANGE, value(&told));
        }
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.extend(object.headers.clone());
        headers.insert(header::CONTENT_LENGTH, value(&length));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::ETAG, value(&object.etag));
        headers.insert(header::LAST_MODIFIED, value(&httpdate::fmt_http_date(object.modified)));
        Ok(answer)
    }

    fn list(&self, asking: &Asking) -> Result<Answer, Refused> {
        let v2 = asking.param("list-type") == "2";
        let (prefix, delimiter) = (asking.param("prefix"), asking.param("delimiter"));
        let marker = asking.param(if v2 { "start-after" } else { "marker" });
        let token = asking.param("continuation-token");
        let bound = match (v2 && !token.is_empty(), marker.is_empty()) {
            (true, _) => Some(read_token(token).ok_or(bad("InvalidArgument"))?),
            (false, true) => Some(String::new()),
            (false, false) => bound_after(marker, prefix, delimiter),
        };
        let max_keys = match asking.param("max-keys") {
            "" => PAGE_KEYS_MAX,
            text => text.parse::<usize>().map_err(|_| bad("InvalidArgument"))?.min(PAGE_KEYS_MAX),
        };
        let query =
            |bound| ListQuery { prefix: prefix.into(), delimiter: delimiter.into(), bound, max: max_keys };
        let page = bound.map(|bound| self.bucket().list(&query(bound))).unwrap_or_default();
        let url_encoded = asking.param("encoding-type") == "url";
        let echo = ListEcho { bucket: &self.name, v2, url_encoded, prefix, delimiter, marker, max_keys };
        Ok(xml(list_result(&echo, &page)))
    }

    fn list_buckets(&self) -> Answer {
        let created = timestamp(SystemTime::UNIX_EPOCH);
        let bucket = element("Name", &self.name) + &element("CreationDate", created);
        let owner = "<Owner><ID>model</ID></Owner>";
        xml(document(
            "ListAllMyBucketsResult",
            &format!("{owner}<Buckets><Bucket>{bucket}</Bucket></Buckets>"),
        ))
    }

    fn copy_source(&self, asking: &Asking) -> Result<Arc<Object>, Refused> {
        let source = asking.header("x-amz-copy-source").ok_or(bad("InvalidArgument"))?;
        let path = percent_decode_str(source.trim_start_matches('/')).decode_utf8_lossy().into_owned();
        let (bucket, key) = path.split_once('/').ok_or(bad("InvalidArgument"))?;
        if bucket != self.name {
            return Err(bad("NoSuchBucket"));
        }
        let source = self.bucket().get(key).ok_or(bad("NoSuchKey"))?;
        if asking.header("x-amz-copy-source-if-match").is_some_and(|c| !matches(c, &source.etag)) {
            return Err(bad("PreconditionFailed"));
        }
        Ok(source)
    }

    fn keep_part(&self, asking: &Asking, etag: String, content: Content) -> Result<(), Refused> {
        let number: u32 = asking.param("partNumber").parse().map_err(|_| bad("InvalidArgument"))?;
        if !(1..=10_000).contains(&number) {
            return Err(bad("InvalidArgument"));
        }
        let mut bucket = self.bucket();
        let upload = bucket.upload(&asking.key, asking.param("uploadId")).map_err(bad)?;
        upload.parts.insert(number, (etag, content));
        Ok(())
    }

    async fn text(&self, asking: &Asking, body: Incoming) -> Result<String, Refused> {
        let mut content = receive(&asking.headers, body, &self.meter).await?.content;
        let mut bytes = Vec::new();
        while let Some(frame) = content.take_frame(usize::MAX) {
            bytes.extend_from_slice(&frame);
        }
        String::from_utf8(bytes).map_err(|_| bad("MalformedXML"))
    }

    fn delete_objects(&self, text: &str) -> Result<Answer, Refused> {
        let keys = read_items(text, "Object", "Key", "VersionId").map_err(|why| ("MalformedXML", why))?;
        if keys.len() > PAGE_KEYS_MAX {
            return Err(bad("MalformedXML"));
        }
        let quiet = read_items(text, "Delete", "Quiet", "").map_err(|why| ("MalformedXML", why))?;
        let quiet = quiet.first().is_some_and(|[quiet, _]| quiet == "true");
        let mut told = String::new();
        let mut bucket = self.bucket();
        for [key, _] in keys {
            bucket.delete(&key);
            if !quiet {
                told += &format!("<Deleted>{}</Deleted>", element("Key", key));
            }
        }
        Ok(xml(document("DeleteResult", &told)))
    }

    fn complete(&self, asking: &Asking, text: &str) -> Result<Answer, Refused> {
        let wanted: Result<Vec<(u32, String)>, Refused> = read_items(text, "Part", "PartNumber", "ETag")
            .map_err(|why| ("MalformedXML", why))?
            .into_iter()
            .map(|[number, etag]| Ok((number.trim().parse().map_err(|_| bad("MalformedXML"))?, etag)))
            .collect();
        let mut bucket = self.bucket();
        guard(asking, bucket.get(&asking.key).as_deref())?;
        let etag = bucket.complete(&asking.key, asking.param("uploadId"), &wanted?).map_err(bad)?;
        let inside = [element("Bucket", &self.name), element("Key", &asking.key), element("ETag", etag)];
        Ok(xml(document("CompleteMultipartUploadResult", &inside.concat())))
    }

    /// What programs ask for when they mount.
    fn other(&self, asking: &Asking) -> Result<Answer, Refused> {
        let name = |name: &str| asking.has(name);
        match (asking.method.as_str(), asking.key.is_empty()) {
            ("HEAD" | "PUT", true) => {
                let region = HeaderName::from_static("x-amz-bucket-region");
                Ok(with(empty(StatusCode::OK), region, "us-east-1"))
            }
            ("GET", true) if name("location") => Ok(xml(document("LocationConstraint", ""))),
            ("GET", true) if name("versioning") => Ok(xml(document("VersioningConfiguration", ""))),
            ("GET", true) if name("uploads") => Ok(self.list_uploads()),
            ("GET", _) if name("acl") => {
                let owner = "<Owner><ID>model</ID></Owner><AccessControlList/>";
                Ok(xml(document("AccessControlPolicy", owner)))
            }
            ("GET", _) if name("tagging") => Ok(xml(document("Tagging", "<TagSet/>"))),
            ("GET", true) if name("object-lock") => Err(bad("ObjectLockConfigurationNotFoundError")),
            ("GET", false) if name("uploadId") => self.list_parts(asking),
            _ => Err(("NotImplemented", "this server does not know the operation".into())),
        }
    }

    fn list_uploads(&self) -> Answer {
        let bucket = self.bucket();
        let upload = |(id, upload): (&String, &crate::bucket::Upload)| {
            let begun = timestamp(SystemTime::UNIX_EPOCH);
            let inside = [element("Key", &upload.key), element("UploadId", id), element("Initiated", begun)];
            format!("<Upload>{}</Upload>", inside.concat())
        };
        let uploads: String = bucket.uploads.iter().map(upload).collect();
        let inside = element("Bucket", &self.name) + "<IsTruncated>false</IsTruncated>" + &uploads;
        xml(document("ListMultipartUploadsResult", &inside))
    }

    fn list_parts(&self, asking: &Asking) -> Result<Answer, Refused> {
        let after: u32 = asking.param("part-number-marker").parse().unwrap_or(0);
        let mut bucket = self.bucket();
        let upload = bucket.upload(&asking.key, asking.param("uploadId")).map_err(bad)?;
        let part = |(number, (etag, content)): (&u32, &(String, Content))| {
            let size = element("Size", content.len().to_string());
            format!(
                "<Part>{}{}{size}</Part>",
                element("PartNumber", number.to_string()),
                element("ETag", etag)
            )
        };
        let parts: String = upload.parts.range(after + 1..).map(part).collect();
        let inside = element("Key", &asking.key) + "<IsTruncated>false</IsTruncated>" + &parts;
        Ok(xml(document("ListPartsResult", &inside)))
    }
}

fn object(content: Content, etag: String, headers: HeaderMap) -> Object {
    Object { content, etag, modified: SystemTime::now(), headers }
}

/// The conditions of a write.
fn guard(asking: &Asking, now: Option<&Object>) -> Result<(), Refused> {
    match (asking.header("if-match"), now) {
        (Some(_), None) => return Err(bad("NoSuchKey")),
        (Some(condition), Some(now)) if !matches(condition, &now.etag) => {
            return Err(bad("PreconditionFailed"));
        }
        _ => {}
    }
    let unwanted = asking.header("if-none-match").zip(now).is_some_and(|(c, now)| matches(c, &now.etag));
    if unwanted { Err(bad("PreconditionFailed")) } else { Ok(()) }
}

fn copied(root: &str, etag: &str) -> Answer {
    let modified = timestamp(SystemTime::now());
    xml(document(root, &(element("ETag", etag) + &element("LastModified", modified))))
}

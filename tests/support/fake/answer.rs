//! Answers as S3 shapes them: headers on every one, XML for errors, none of it for HEAD.

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method};

use super::super::xml;

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn empty(status: u16) -> Answer {
        Answer { status, headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// 200 with a document whose root is `root`.
    pub fn xml(root: &str, inner: &str) -> Answer {
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{root} \
             xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{inner}</{root}>"
        );
        Answer { status: 200, headers: HeaderMap::new(), body: Bytes::from(text) }
            .with("content-type", "application/xml")
    }

    pub fn with(mut self, name: &str, value: &str) -> Answer {
        self.set(name, value);
        self
    }

    pub fn set(&mut self, name: &str, value: &str) {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("a header value");
        self.headers.insert(name, value);
    }
}

/// What S3 says no with.
#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    pub code: &'static str,
    pub message: String,
    /// Further elements, already XML.
    pub extra: String,
    pub headers: Vec<(&'static str, String)>,
}

impl Refusal {
    pub fn new(status: u16, code: &'static str, message: &str) -> Refusal {
        Refusal { status, code, message: message.to_string(), extra: String::new(), headers: Vec::new() }
    }

    pub fn no_such_key(key: &str) -> Refusal {
        let mut refusal = Refusal::new(404, "NoSuchKey", "The specified key does not exist.");
        refusal.extra = xml::leaf("Key", key);
        refusal
    }

    pub fn no_such_upload() -> Refusal {
        Refusal::new(
            404,
            "NoSuchUpload",
            "The specified upload does not exist. The upload ID may be invalid, or the upload may have \
             been aborted or completed.",
        )
    }

    pub fn precondition(condition: &str) -> Refusal {
        let mut refusal = Refusal::new(
            412,
            "PreconditionFailed",
            "At least one of the pre-conditions you specified did not hold",
        );
        refusal.extra = xml::leaf("Condition", condition);
        refusal
    }

    pub fn malformed_xml() -> Refusal {
        Refusal::new(
            400,
            "MalformedXML",
            "The XML you provided was not well-formed or did not validate against our published schema",
        )
    }

    pub fn invalid_argument(message: &str) -> Refusal {
        Refusal::new(400, "InvalidArgument", message)
    }

    pub fn invalid_request(message: &str) -> Refusal {
        Refusal::new(400, "InvalidRequest", message)
    }

    /// As it goes over the wire; a HEAD gets the status alone, as HTTP has it.
    pub fn answer(self, method: &Method, resource: &str, request_id: &str) -> Answer {
        let mut answer = Answer::empty(self.status);
        if method != Method::HEAD && self.status != 304 {
            let body = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>{}{}{}{}{}{}</Error>",
                xml::leaf("Code", self.code),
                xml::leaf("Message", &self.message),
                self.extra,
                xml::leaf("Resource", resource),
                xml::leaf("RequestId", request_id),
                xml::leaf("HostId", super::HOST_ID),
            );
            answer.body = Bytes::from(body);
            answer.set("content-type", "application/xml");
        }
        for (name, value) in self.headers {
            answer.set(name, &value);
        }
        answer
    }
}

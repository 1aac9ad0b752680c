//! What can go wrong, and the errno each failure becomes.
//!
//! Owns: [`Error`], the one error of everything above the wire; [`S3Error`], an S3 request that failed
//! for good, with all that is known about it; and the one exhaustive match to an errno.
//! Invariant: every failure a program can meet has exactly one errno, chosen in [`Error::errno`].
//! Must never know: FUSE, async, how requests are sent.

use std::fmt;

/// What an S3 failure means to us, whatever words the server used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum S3ErrorKind {
    /// 404 on a key (`NoSuchKey`, `NoSuchUpload`, or a bodyless 404 to HEAD).
    NoSuchKey,
    /// `NoSuchBucket`.
    NoSuchBucket,
    /// 403 of any code, also signatures that do not match and expired tokens after one refresh.
    AccessDenied,
    /// 412: `If-Match` or `If-None-Match` did not hold, or 409 `ConditionalRequestConflict`.
    PreconditionFailed,
    /// The object is archived and must be restored first (`InvalidObjectState`).
    Archived,
    /// 416: the range lies outside the object.
    InvalidRange,
    /// Too large, or too many parts (`EntityTooLarge`).
    TooLarge,
    /// More than 2 KiB of user metadata (`MetadataTooLarge`).
    MetadataTooLarge,
    /// 501 `NotImplemented`: the server does not know this operation or header.
    NotImplemented,
    /// The bucket lives in another region and the right one could not be learnt.
    WrongRegion,
    /// No credentials could be had from the chain.
    NoCredentials,
    /// `BucketNotEmpty`.
    BucketNotEmpty,
    /// `BucketAlreadyExists`, `BucketAlreadyOwnedByYou`.
    BucketExists,
    /// Out of retries: server errors, throttling, time-outs, connections lost.
    Unavailable,
    /// The answer was not S3's: XML that does not parse, headers missing, wrong length.
    Malformed,
    /// The bucket or object has no such document: no policy, no CORS, no tags.
    NotSet,
    /// A document that S3 refuses: malformed, or with values that it does not take. So is a storage class that it does not
    /// know.
    BadDocument,
    /// Any other 4xx: the request was refused as it stands.
    Refused,
}

/// An S3 request that failed for good.
#[derive(Debug, Clone)]
pub struct S3Error {
    /// S3's name of the operation, such as `GetObject`.
    pub operation: &'static str,
    pub bucket: String,
    pub key: Option<String>,
    pub kind: S3ErrorKind,
    /// HTTP status of the last answer; none where no answer came.
    pub status: Option<u16>,
    /// S3's `Code`.
    pub code: Option<String>,
    /// S3's `Message`; our own words where there was none, and before one that does not say what is to be done.
    pub message: String,
    pub request_id: Option<String>,
    pub host_id: Option<String>,
    /// How often it was sent.
    pub tries: u32,
}

impl fmt::Display for S3Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s3://{}", self.operation, self.bucket)?;
        if let Some(key) = &self.key {
            write!(f, "/{}", key.escape_debug())?;
        }
        write!(f, ": {}", self.message.escape_debug())?;
        let mut sep = " (";
        let mut part = |f: &mut fmt::Formatter<'_>, name: &str, value: &dyn fmt::Display| {
            let r = write!(f, "{sep}{name} {value}");
            sep = ", ";
            r
        };
        if let Some(status) = self.status {
            part(f, "HTTP", &status)?;
        }
        if let Some(code) = &self.code {
            part(f, "code", &code.escape_debug())?;
        }
        if let Some(id) = &self.request_id {
            part(f, "request id", &id.escape_debug())?;
        }
        if let Some(id) = &self.host_id {
            part(f, "host id", &id.escape_debug())?;
        }
        part(f, "tries", &self.tries)?;
        f.write_str(")")
    }
}

impl std::error::Error for S3Error {}

/// What a file system operation can fail with.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    S3(Box<S3Error>),
    #[error("no such file or directory")]
    NotFound,
    #[error("file exists")]
    Exists,
    #[error("not a directory")]
    NotDirectory,
    #[error("is a directory")]
    IsDirectory,
    #[error("directory not empty")]
    NotEmpty,
    #[error("name longer than 255 bytes, or key longer than 1024 bytes")]
    NameTooLong,
    #[error("not a name an S3 key can hold: {0}")]
    InvalidName(&'static str),
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    #[error("mounted read-only")]
    ReadOnly,
    #[error("the object changed in S3 under an open handle")]
    Stale,
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    #[error("not permitted: {0}")]
    NotPermitted(&'static str),
    #[error("not within one directory tree operation: {0}")]
    CrossDevice(&'static str),
    #[error("busy: {0}")]
    Busy(&'static str),
    #[error("larger than S3's largest object")]
    TooLarge,
    #[error("no memory within --memory came free in time")]
    NoMemory,
    #[error("no space left: {0}")]
    NoSpace(&'static str),
    #[error("no such extended attribute")]
    NoAttribute,
    #[error("larger than all of an object's metadata may be: 2 KiB")]
    ValueTooLarge,
    #[error("interrupted by a signal")]
    Interrupted,
    #[error("nothing at this offset or after it")]
    NothingThere,
    #[error("bad file handle")]
    BadHandle,
    #[error("too many open handles")]
    TooManyHandles,
    #[error("{0}")]
    Io(String),
}

impl From<S3Error> for Error {
    fn from(e: S3Error) -> Self {
        Error::S3(Box::new(e))
    }
}

impl Error {
    /// The errno a program sees (docs/SEMANTICS.md, "Errors").
    pub fn errno(&self) -> i32 {
        match self {
            Error::S3(e) => match e.kind {
                S3ErrorKind::NoSuchKey | S3ErrorKind::NoSuchBucket => libc::ENOENT,
                S3ErrorKind::AccessDenied | S3ErrorKind::NoCredentials | S3ErrorKind::Archived => {
                    libc::EACCES
                }
                S3ErrorKind::PreconditionFailed => libc::ESTALE,
                S3ErrorKind::TooLarge => libc::EFBIG,
                S3ErrorKind::MetadataTooLarge => libc::ENOSPC,
                S3ErrorKind::NotImplemented => libc::EOPNOTSUPP,
                S3ErrorKind::BucketNotEmpty => libc::ENOTEMPTY,
                S3ErrorKind::BucketExists => libc::EEXIST,
                S3ErrorKind::NotSet => libc::ENODATA,
                S3ErrorKind::BadDocument => libc::EINVAL,
                S3ErrorKind::InvalidRange
                | S3ErrorKind::WrongRegion
                | S3ErrorKind::Unavailable
                | S3ErrorKind::Malformed
                | S3ErrorKind::Refused => libc::EIO,
            },
            Error::NotFound => libc::ENOENT,
            Error::Exists => libc::EEXIST,
            Error::NotDirectory => libc::ENOTDIR,
            Error::IsDirectory => libc::EISDIR,
            Error::NotEmpty => libc::ENOTEMPTY,
            Error::NameTooLong => libc::ENAMETOOLONG,
            Error::InvalidName(_) | Error::Invalid(_) => libc::EINVAL,
            Error::ReadOnly => libc::EROFS,
            Error::Stale => libc::ESTALE,
            Error::NotSupported(_) => libc::EOPNOTSUPP,
            Error::NotPermitted(_) => libc::EPERM,
            Error::CrossDevice(_) => libc::EXDEV,
            Error::Busy(_) => libc::EBUSY,
            Error::TooLarge => libc::EFBIG,
            Error::NoMemory => libc::ENOMEM,
            Error::NoSpace(_) => libc::ENOSPC,
            Error::NoAttribute => libc::ENODATA,
            Error::ValueTooLarge => libc::E2BIG,
            Error::Interrupted => libc::EINTR,
            Error::NothingThere => libc::ENXIO,
            Error::BadHandle => libc::EBADF,
            Error::TooManyHandles => libc::ENFILE,
            Error::Io(_) => libc::EIO,
        }
    }

    /// Whether the same request may succeed later, without anything being done about it: S3 was not to be reached, or
    /// not able to answer.
    pub fn is_passing(&self) -> bool {
        matches!(self.s3_kind(), Some(S3ErrorKind::Unavailable | S3ErrorKind::Malformed))
            || matches!(self, Error::NoMemory)
    }

    /// Whether the object is not the one that was meant.
    pub fn is_other_version(&self) -> bool {
        matches!(self, Error::Exists)
            || matches!(self.s3_kind(), Some(S3ErrorKind::PreconditionFailed | S3ErrorKind::NoSuchKey))
    }

    /// The S3 failure behind this error, if that is what it is.
    pub fn s3_kind(&self) -> Option<S3ErrorKind> {
        match self {
            Error::S3(e) => Some(e.kind),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(kind: S3ErrorKind) -> i32 {
        let error = S3Error {
            operation: "GetObject",
            bucket: "bucket".into(),
            key: Some("key\n".into()),
            kind,
            status: Some(403),
            code: Some("AccessDenied".into()),
            message: "no".into(),
            request_id: Some("R".into()),
            host_id: None,
            tries: 2,
        };
        let told = "GetObject s3://bucket/key\\n: no (HTTP 403, code AccessDenied, request id R, tries 2)";
        assert_eq!(error.to_string(), told, "one line, with all that is known");
        Error::from(error).errno()
    }

    #[test]
    fn errnos_are_those_of_the_contract() {
        assert_eq!(s3(S3ErrorKind::NoSuchKey), libc::ENOENT);
        assert_eq!(s3(S3ErrorKind::NoSuchBucket), libc::ENOENT);
        assert_eq!(s3(S3ErrorKind::AccessDenied), libc::EACCES);
        assert_eq!(s3(S3ErrorKind::Archived), libc::EACCES);
        assert_eq!(s3(S3ErrorKind::PreconditionFailed), libc::ESTALE);
        assert_eq!(s3(S3ErrorKind::Unavailable), libc::EIO);
        assert_eq!(s3(S3ErrorKind::TooLarge), libc::EFBIG);
        assert_eq!(s3(S3ErrorKind::MetadataTooLarge), libc::ENOSPC);
        assert_eq!(s3(S3ErrorKind::NotSet), libc::ENODATA);
        assert_eq!(s3(S3ErrorKind::BadDocument), libc::EINVAL);
        assert_eq!(Error::TooLarge.errno(), libc::EFBIG);
        assert_eq!(Error::Stale.errno(), libc::ESTALE);
        assert_eq!(Error::ReadOnly.errno(), libc::EROFS);
        assert_eq!(Error::NotPermitted("x").errno(), libc::EPERM);
        assert_eq!(Error::InvalidName("x").errno(), libc::EINVAL);
        assert_eq!(Error::NameTooLong.errno(), libc::ENAMETOOLONG);
        assert_eq!(Error::NothingThere.errno(), libc::ENXIO);
    }
}

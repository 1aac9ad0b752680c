//! RestoreObject: an archived object is asked for.
//!
//! Owns: the request. What became of it is told by `x-amz-restore` in [`super::ObjectDetails`].
//! Must never know: when to ask for it.

use http::Method;

use super::{ObjectId, R, S3Client, call_on, payload, set_document, xml};
use crate::error::{S3Error, S3ErrorKind};

impl S3Client {
    /// Asks for a copy of an archived object that lasts for `days` (none: for good, from the archive tiers of
    /// INTELLIGENT_TIERING); `tier`: `Expedited`, `Standard`, `Bulk`, none is
    /// S3's default. Of one that is restored already, changes how long it lasts.
    ///
    /// # Errors
    /// `Refused`, code `RestoreAlreadyInProgress`; `BadDocument`, if it is not archived at all.
    pub async fn restore_object(&self, object: ObjectId<'_>, days: Option<u32>, tier: Option<&str>) -> R<()> {
        let mut call = call_on("RestoreObject", Method::POST, Some(object));
        call.query.push(("restore", "".into()));
        let tier = tier.map(xml::escape).map_or(String::new(), |tier| {
            format!("<GlacierJobParameters><Tier>{tier}</Tier></GlacierJobParameters>")
        });
        let days = days.map_or(String::new(), |days| format!("<Days>{days}</Days>"));
        let document = format!("<RestoreRequest xmlns=\"{}\">{days}{tier}</RestoreRequest>", xml::NAMESPACE);
        let md5 = payload::content_md5(document.as_bytes());
        self.set_header(&mut call, "content-md5", &md5)?;
        set_document(&mut call, document).await;
        match self.send(&call).await {
            Ok(_) => Ok(()),
            // The code for what is archived, of all other requests.
            Err(e) if e.kind == S3ErrorKind::Archived => {
                let message = "the object is in no archive: there is nothing to restore".to_string();
                Err(S3Error { kind: S3ErrorKind::BadDocument, message, ..e })
            }
            Err(e) => Err(e),
        }
    }
}

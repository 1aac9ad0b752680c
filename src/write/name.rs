//! A file that is being written, or waits to be sent, while its name goes or becomes another.
//!
//! Owns: what becomes then of what was sent, acknowledged and is yet to be published.
//! Invariant: what was acknowledged is found under the name that the file has, or goes with its last one.
//! Must never know: inodes, paths, who renames.

use super::Writer;
use crate::error::Error;
use crate::s3::Precondition;

impl Writer {
    /// The file's name is about to go: nothing is published from now on. Answers whether S3 has the object.
    pub async fn unlink(&self) -> bool {
        let mut state = self.state.lock().await;
        state.unlinked = true;
        state.content.base().is_some()
    }

    /// What the local disk has of it that S3 may not have, as [`KeptItem::name`] tells.
    ///
    /// [`KeptItem::name`]: crate::journal::KeptItem::name
    pub async fn item(&self) -> Option<String> {
        self.state.lock().await.item()
    }

    /// Whether it was sent, and no answer came: S3 may have it.
    pub async fn is_unheard(&self) -> bool {
        self.state.lock().await.unheard.is_some()
    }

    /// The name is gone for good: with it what was sent, and what was acknowledged, but for what handles read.
    pub async fn unlinked(&self) {
        let mut state = self.state.lock().await;
        state.unlinked = true;
        state.forget_acknowledged().await;
        if let Some(upload) = state.upload.take() {
            upload.abort().await;
        }
    }

    /// The name could not be removed. Answers whether what was acknowledged is to be sent, as before.
    pub async fn relink(&self) -> bool {
        let mut state = self.state.lock().await;
        state.unlinked = false;
        state.changed && state.is_acknowledged()
    }

    /// One whose name is gone.
    pub fn without_name(mut self) -> Writer {
        self.state.get_mut().unlinked = true;
        self
    }

    /// Whether parts were sent, which are bound to the file's key until they are published.
    pub async fn has_sent(&self) -> bool {
        self.state.lock().await.upload.is_some()
    }

    /// The file is at `key` from now on, and nothing of it was sent that is not published ([`Writer::has_sent`]). `moved`:
    /// the ETags of the object that moved along, before and after; none: there is none, and what is published replaces
    /// what is there, which is `over` if anything is.
    ///
    /// Errors: the local disk, which has what was acknowledged under the old key.
    pub async fn renamed(
        &self,
        key: String,
        moved: Option<(&str, &str)>,
        over: Option<&str>,
    ) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        let over = match (moved, state.over.as_deref()) {
            (None, _) => over,
            (Some((was, now)), Some(over)) if over == was => Some(now),
            (Some(_), over) => over,
        };
        let over = over.map(str::to_owned);
        state.move_to(key, over, moved).await?;
        if moved.is_none() {
            state.guard = Precondition::None;
        }
        Ok(())
    }
}

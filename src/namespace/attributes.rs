//! What objects' metadata say of files and directories, where the mount keeps attributes there (`--attrs=meta`).
//!
//! Owns: when S3 is asked for them (a HEAD a name, for listings do not tell), and which names are asked about ahead of
//! whoever goes through a directory.
//! Invariants: no more than `HEADS_MAX` questions are under way, and never two about one name; what is known of an
//! object is asked for again only when its ETag or `Last-Modified` is another.
//! Must never know: what the metadata mean, what stands for attributes that are missing.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::dir::MarkerSays;
use super::inode::Table;
use super::known::{Known, Source};
use super::lookup::absent_as_none;
use super::{Entry, FileInfo, HEADS_MAX, Kept, Kind, Namespace, Node};
use crate::attr::Attributes;
use crate::error::Error;
use crate::key;
use crate::s3::{ObjectHead, S3Client};

/// A symbolic link's target is no longer, other special files are empty: what is larger is a file.
const SPECIAL_BYTES_MAX: u64 = libc::PATH_MAX as u64 - 1;
/// Names asked about in order before the next ones are asked about ahead.
const RUN_MIN: usize = 2;

impl Namespace {
    /// Whether objects' metadata say what they are.
    pub fn keeps_attributes(&self) -> bool {
        self.heads.is_some()
    }

    /// What an object's head says of a file.
    pub fn info_of(&self, head: &ObjectHead) -> FileInfo {
        let kept = if self.keeps_attributes() { Kept::new(attributes_of(&self.client, head)) } else { None };
        FileInfo { kept, ..FileInfo::from(head) }
    }

    /// Whether what is known of a listed name lacks its attributes, however old these are.
    pub fn lacks_attributes(&self, dir: u64, name: &str, node: &Node) -> bool {
        let lacks = |table: &mut Table, dir: &str| match node {
            Node::File(_) => lacks_attributes(node),
            Node::Directory => {
                table.dirs.get(&*format!("{dir}{name}/")).is_none_or(|below| below.says.is_none())
            }
        };
        self.keeps_attributes() && self.within(dir, lacks).unwrap_or(false)
    }

    /// Whether a program must not be told of a listed name before its attributes are asked for. `all`: it is told of
    /// all of them, else of the kind only.
    pub fn must_ask(&self, dir: u64, name: &str, node: &Node, all: bool) -> bool {
        if !self.keeps_attributes() {
            return false;
        }
        match node {
            Node::File(info) => {
                info.attributes().is_none()
                    && !info.etag.is_empty()
                    && (all || info.size <= SPECIAL_BYTES_MAX)
            }
            Node::Directory => {
                all && self.within(dir, |table, dir| table.marker_says(&format!("{dir}{name}/")).is_none())
                    == Some(true)
            }
        }
    }

    /// Asks for the attributes of a name in a directory, unless they are known by then. Answers what stands there.
    ///
    /// Errors: what S3 failed with.
    pub async fn ask_attributes(&self, dir: u64, name: &str, node: Node) -> Result<Option<Node>, Error> {
        let dir = self.dir_key(dir)?;
        self.with_attributes(&dir, name, Some(node)).await
    }

    /// What was found at a name, with its attributes where these are kept.
    pub(super) async fn with_attributes(
        &self,
        dir: &str,
        name: &str,
        found: Option<Node>,
    ) -> Result<Option<Node>, Error> {
        let Some(heads) = &self.heads else { return Ok(found) };
        let Some(node) = found else { return Ok(None) };
        if node == Node::Directory {
            self.ask_marker(&format!("{dir}{name}/")).await?;
            return Ok(Some(node));
        }
        if !lacks_attributes(&node) {
            return Ok(Some(node));
        }
        let key = format!("{dir}{name}");
        let turn = self.turn(&key);
        let _turn = turn.lock().await;
        let known = self.lock().known(dir, name);
        match known {
            Some(Some(known)) if lacks_attributes(&known) => {}
            Some(known) => return Ok(known),
            None => {}
        }
        let _permit = heads.acquire().await;
        let question = self.question(dir);
        match absent_as_none(self.client.head_object(&key).await)? {
            Some(head) => {
                let said = self.info_of(&head);
                Ok(self.lock().hear_attributes(dir, name, said, question.asked))
            }
            // Gone, or a directory by now.
            None => self.ask(dir, name).await,
        }
    }

    /// Asks for what a directory's marker says, unless that is known and fresh. `dir`: its key.
    pub(super) async fn ask_marker(&self, dir: &str) -> Result<(), Error> {
        // A bucket has no marker.
        let Some(heads) = self.heads.as_ref().filter(|_| !dir.is_empty()) else { return Ok(()) };
        if self.lock().marker_says(dir).is_some() {
            return Ok(());
        }
        let turn = self.turn(dir);
        let _turn = turn.lock().await;
        if self.lock().marker_says(dir).is_some() {
            return Ok(());
        }
        let _permit = heads.acquire().await;
        let question = self.question(dir);
        let head = absent_as_none(self.client.head_object(dir).await)?;
        let attributes = head.as_ref().map(|head| attributes_of(&self.client, head)).unwrap_or_default();
        self.lock().hear_marker_says(dir, attributes, question.asked);
        Ok(())
    }

    /// A name was looked up: where it came after others before it, those that follow are asked about as well.
    pub fn ask_ahead(self: &Arc<Self>, parent: u64, name: &str) {
        if !self.keeps_attributes() {
            return;
        }
        let lacking = self.within(parent, |table, dir| table.lacking_after(dir, name)).unwrap_or_default();
        for (name, node) in lacking {
            let namespace = self.clone();
            tokio::spawn(async move {
                if let Err(e) = namespace.ask_attributes(parent, &name, node).await {
                    tracing::debug!("attributes asked for ahead: {e}"); // whoever needs them asks, and is told
                }
            });
        }
    }

    /// Where a symbolic link leads, as its object of this ETag says.
    pub fn learnt_target(&self, ino: u64, etag: &str, target: String) {
        self.lock().learnt_target(ino, etag, target);
    }

    /// The attributes of a file or directory were changed here, and in S3: they are these.
    pub fn changed_attributes(&self, ino: u64, attributes: Attributes) {
        let mut table = self.lock();
        if !table.attributes {
            return;
        }
        if table.kind(ino) == Some(Kind::Directory) {
            if let Some(dir) = table.key(ino) {
                let (kept, local) = (Arc::new(Kept { attributes, current: true }), table.is_local(ino));
                let says = MarkerSays { kept, asked: Instant::now(), local };
                table.edit(&dir, |dir| (dir.says, dir.marker) = (Some(says), true));
            }
        } else {
            table.update(ino, |info| info.kept = Kept::new(attributes));
        }
        table.shrink();
    }
}

fn lacks_attributes(node: &Node) -> bool {
    matches!(node, Node::File(info) if info.attributes().is_none() && !info.etag.is_empty())
}

/// What an object's metadata say.
fn attributes_of(client: &S3Client, head: &ObjectHead) -> Attributes {
    let metadata = head.metadata.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Attributes::read(metadata, |name, value| {
        let (bucket, etag) = (client.bucket(), &head.etag);
        tracing::info!(bucket, etag, "metadata that make no sense: {name}: {}", value.escape_debug());
    })
}

impl Table {
    /// What a directory's marker says, if it is known and fresh. `dir`: its key.
    pub(super) fn marker_says(&self, dir: &str) -> Option<&MarkerSays> {
        self.dirs.get(dir)?.says.as_ref().filter(|says| says.local || self.is_young(dir, says.asked))
    }

    pub(super) fn hear_marker_says(&mut self, dir: &str, attributes: Attributes, asked: Instant) {
        let older = |says: &MarkerSays| !says.local && says.asked <= asked;
        let (above, name) = key::split_dir(dir);
        if self.is_moving(above, name) {
            return;
        }
        if self.dirs.get(dir).and_then(|dir| dir.says.as_ref()).is_none_or(older) {
            let kept = Arc::new(Kept { attributes, current: true });
            self.edit(dir, |dir| dir.says = Some(MarkerSays { kept, asked, local: false }));
        }
    }

    /// An entry with what is known of a directory's attributes; a file's are in it.
    pub(super) fn with_directorys(&self, mut entry: Entry) -> Entry {
        if self.attributes
            && entry.node == Node::Directory
            && let Some(dir) = self.key(entry.ino)
            && let Some(known) = self.dirs.get(&*dir)
        {
            if let Some(says) = &known.says {
                let age = if says.local { Duration::ZERO } else { says.asked.elapsed() };
                entry.ttl = entry.ttl.min(self.ttl.saturating_sub(age));
                entry.attributes = Some(says.kept.clone());
            }
            let told = entry.attributes.as_ref().and_then(|kept| kept.attributes.ctime);
            if known.changed.is_some_and(|changed| told.is_none_or(|told| told < changed)) {
                let mut attributes = entry.attributes.map(|kept| kept.attributes.clone()).unwrap_or_default();
                (attributes.mtime, attributes.ctime) = (known.changed, known.changed);
                entry.attributes = Kept::new(attributes);
            }
        }
        entry
    }

    /// A name was made or removed in a directory: its times are now, for as long as that is known here.
    pub(super) fn touch(&mut self, dir: &str) {
        if self.attributes {
            self.edit(dir, |dir| dir.changed = Some(SystemTime::now()));
        }
    }

    /// Takes note of what HEAD said of a file that was known otherwise; that keeps its age. Answers what stands.
    fn hear_attributes(&mut self, dir: &str, name: &str, said: FileInfo, asked: Instant) -> Option<Node> {
        let said = Node::File(said);
        let slot = self.dirs.get(dir).and_then(|dir| dir.get(name)).filter(|slot| !self.is_local(slot.ino));
        let same = slot.and_then(|slot| {
            let changed_since = slot.when.source == Source::Changed && !slot.when.gives_way_to(asked);
            let known = slot.known.with_attributes_of(&Known::of(Some(&said)))?;
            (!changed_since).then_some((known, slot.when))
        });
        let stands = match same {
            Some((known, when)) => {
                let stands = known.node();
                if slot.is_some_and(|slot| slot.known.kind() != known.kind()) {
                    self.detach(dir, name);
                }
                self.edit(dir, |dir| dir.set(name, known, when));
                stands
            }
            None => self.hear(dir, name, Some(&said), asked, Source::Asked),
        };
        self.shrink();
        stands
    }

    fn learnt_target(&mut self, ino: u64, etag: &str, target: String) {
        let Some((dir, name)) = self.name(ino) else { return };
        let Some(slot) = self.dirs.get(&dir).and_then(|dir| dir.get(&name)) else { return };
        let Some(Node::File(mut info)) = slot.known.node().filter(|_| !self.is_local(ino)) else { return };
        if let Some(kept) = info.kept.as_mut().filter(|_| info.etag == etag) {
            Arc::make_mut(kept).attributes.target = Some(target);
            let when = slot.when;
            self.edit(&dir, |dir| dir.set(&name, Known::of(Some(&Node::File(info))), when));
            self.shrink();
        }
    }

    /// The names after one whose attributes are not known, as many as the walk that came to it is worth.
    fn lacking_after(&self, dir: &str, name: &str) -> Vec<(String, Node)> {
        let Some(known) = self.dirs.get(dir).filter(|known| known.run >= RUN_MIN) else { return Vec::new() };
        let ahead = known.slots_after(name).take((2 * known.run).min(HEADS_MAX));
        let lacking = ahead.filter_map(|(name, slot)| {
            let node = slot.known.node()?;
            let lacks = match node {
                Node::File(_) => lacks_attributes(&node),
                Node::Directory => self.marker_says(&format!("{dir}{name}/")).is_none(),
            };
            lacks.then(|| (name.to_string(), node))
        });
        lacking.collect()
    }
}

//! Renames among the random operations: what the model expects of them, and what they do to it.

use super::*;

impl Run {
    pub(super) async fn rename(&mut self) -> String {
        let (from, to) = (self.path(), self.path());
        if self.random.random_bool(0.3) {
            return self.exchange(&from, &to).await;
        }
        let no_replace = self.random.random_bool(0.2);
        let said = format!("rename {from:?} {to:?} no_replace {no_replace}");
        let flags = if no_replace { libc::RENAME_NOREPLACE } else { 0 };
        let expected = self.expect_rename(&from, &to, no_replace);
        assert_eq!(answer(self.house.rename(&from, &to, flags).await), expected, "{said}");
        if expected.is_ok() && from != to {
            match self.model.files.remove(&from) {
                Some(node) => self.file_moved(node, &to),
                None => self.dir_moved(&from, &to),
            }
        }
        said
    }

    async fn exchange(&mut self, a: &str, b: &str) -> String {
        let said = format!("exchange {a:?} {b:?}");
        let expected = self.expect_exchange(a, b);
        let done = self.house.rename(a, b, libc::RENAME_EXCHANGE).await;
        assert_eq!(answer(done), expected, "{said}");
        if expected.is_err() || a == b {
            return said;
        }
        for path in [a, b] {
            if let Some(node) = self.model.files.get(path) {
                self.model.commit(*node);
            }
            let below = format!("{path}/");
            self.model.lose(|was| was == path || was.starts_with(&below));
        }
        let below = |path: &str, at: &str| {
            path.strip_prefix(at).filter(|rest| rest.is_empty() || rest.starts_with('/')).map(str::to_owned)
        };
        let place = |path: String| match (below(&path, a), below(&path, b)) {
            (Some(rest), _) => format!("{b}{rest}"),
            (_, Some(rest)) => format!("{a}{rest}"),
            _ => path,
        };
        self.model.dirs = std::mem::take(&mut self.model.dirs).into_iter().map(place).collect();
        for (path, node) in std::mem::take(&mut self.model.files) {
            let path = place(path);
            self.model.nodes[node].path = Some(path.clone());
            self.model.files.insert(path, node);
        }
        let parts_sent = |(path, node): (&String, &usize)| {
            let content = &self.model.nodes[*node].content;
            let published = self.house.fake.object(path).is_some_and(|object| object.data == content);
            (content.len() >= PART_BYTES && published).then_some(*node)
        };
        let published: Vec<_> = self.model.files.iter().filter_map(parts_sent).collect();
        published.into_iter().for_each(|node| self.model.commit(node));
        said
    }

    fn expect_exchange(&self, a: &str, b: &str) -> Result<(), i32> {
        self.model.dir_of(a)?;
        self.model.dir_of(b)?;
        for path in [a, b] {
            if matches!(self.model.at(path)?, Stands::Nothing) {
                return Err(libc::ENOENT);
            }
        }
        let nested = a.starts_with(&format!("{b}/")) || b.starts_with(&format!("{a}/"));
        if nested { Err(libc::EINVAL) } else { Ok(()) }
    }

    fn file_moved(&mut self, node: usize, to: &str) {
        self.model.lose(|was| was == to);
        if let Some(replaced) = self.model.files.insert(to.to_string(), node) {
            self.model.nodes[replaced].path = None;
            self.model.nodes[replaced].lost = true;
            // S3 has what was there until this is published.
            if self.model.nodes[node].published.is_none() {
                self.model.nodes[node].published = self.model.nodes[replaced].published.clone();
            }
        }
        self.model.nodes[node].path = Some(to.to_string());
        // Parts that were sent cannot follow: the file was published first.
        let content = &self.model.nodes[node].content;
        if content.len() >= PART_BYTES && self.house.fake.object(to).is_some_and(|o| o.data == content) {
            self.model.commit(node);
        }
    }

    fn dir_moved(&mut self, from: &str, to: &str) {
        let below = format!("{from}/");
        self.model.lose(|was| was.starts_with(&below) || was.starts_with(&format!("{to}/")));
        let (dirs, files) = (std::mem::take(&mut self.model.dirs), std::mem::take(&mut self.model.files));
        let moved = |path: &str| path.strip_prefix(&below).map(|rest| format!("{to}/{rest}"));
        self.model.dirs = dirs.into_iter().map(|dir| moved(&dir).unwrap_or(dir)).collect();
        self.model.dirs.remove(from);
        self.model.dirs.insert(to.to_string());
        for (path, node) in files {
            match moved(&path) {
                Some(path) => self.file_moved(node, &path),
                None => _ = self.model.files.insert(path, node),
            }
        }
    }

    fn expect_rename(&self, from: &str, to: &str, no_replace: bool) -> Result<(), i32> {
        self.model.dir_of(from)?;
        self.model.dir_of(to)?;
        match self.model.at(from)? {
            Stands::File(_) => {}
            Stands::Directory => return self.expect_rename_dir(from, to, no_replace),
            Stands::Nothing => return Err(libc::ENOENT),
        }
        match self.model.at(to)? {
            Stands::Directory => Err(libc::EISDIR),
            Stands::File(_) if no_replace => Err(libc::EEXIST),
            Stands::File(_) | Stands::Nothing => Ok(()),
        }
    }

    fn expect_rename_dir(&self, from: &str, to: &str, no_replace: bool) -> Result<(), i32> {
        let stands = self.model.at(to)?;
        match stands {
            Stands::File(_) | Stands::Directory if no_replace => Err(libc::EEXIST),
            Stands::File(_) => Err(libc::ENOTDIR),
            _ if from == to => Ok(()),
            _ if to.starts_with(&format!("{from}/")) => Err(libc::EINVAL),
            Stands::Directory if !self.model.children(to).is_empty() => Err(libc::ENOTEMPTY),
            Stands::Directory | Stands::Nothing => Ok(()),
        }
    }
}

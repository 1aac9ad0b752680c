//! Who may change what while directories are renamed.
//!
//! Owns: [`Gate`].
//! Invariants: while a directory is being renamed nothing below its old or its new key is changed in S3 but by the
//! rename; no two renames overlap; whoever holds a pass asks for no second one, so nobody waits in a circle.
//! Bounded by the requests that the kernel has under way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

#[derive(Clone, Default)]
pub(super) struct Gate(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Held for an instant only; no other lock is taken under it.
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    /// Keys at which changes are under way.
    changes: HashMap<u64, Vec<String>>,
    /// Directories that are being renamed: old key, new key.
    moves: HashMap<u64, [String; 2]>,
}

/// The right to change something, until it is dropped.
pub(super) struct Pass {
    gate: Gate,
    id: u64,
}

impl Gate {
    /// Waits until no directory is being renamed that these keys lie in.
    pub async fn change(&self, keys: Vec<String>) -> Pass {
        self.until(|state| {
            let free = !state.moves.values().flatten().any(|dir| keys.iter().any(|key| key.starts_with(dir)));
            free.then(|| state.changes.insert(state.next, keys.clone()))
        })
        .await
    }

    /// Waits until nothing is changed below these directories. From the moment this is called nothing new is.
    pub async fn move_dir(&self, from: &str, to: &str) -> Pass {
        let dirs = [from.to_owned(), to.to_owned()];
        let overlap = |a: &String, b: &String| a.starts_with(b.as_str()) || b.starts_with(a.as_str());
        let pass = self
            .until(|state| {
                let free = !state.moves.values().flatten().any(|a| dirs.iter().any(|b| overlap(a, b)));
                free.then(|| state.moves.insert(state.next, dirs.clone()))
            })
            .await;
        loop {
            let changed = self.0.changed.notified();
            let below = |key: &String| dirs.iter().any(|dir| key.starts_with(dir));
            if !self.lock().changes.values().flatten().any(below) {
                return pass;
            }
            changed.await;
        }
    }

    async fn until<T>(&self, mut enter: impl FnMut(&mut State) -> Option<T>) -> Pass {
        loop {
            let changed = self.0.changed.notified();
            {
                let mut state = self.lock();
                if enter(&mut state).is_some() {
                    state.next += 1;
                    return Pass { gate: self.clone(), id: state.next - 1 };
                }
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.changes.remove(&self.id);
        state.moves.remove(&self.id);
        drop(state);
        self.gate.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn keys(keys: &[&str]) -> Vec<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    #[tokio::test]
    async fn changes_below_wait_for_a_rename_and_it_waits_for_those_before() {
        let gate = Gate::default();
        let before = gate.change(keys(&["a/x"])).await;
        let mut moving = Box::pin(gate.move_dir("a/", "b/"));
        assert!(moving.as_mut().now_or_never().is_none(), "a/x is being changed");
        for below in [&["a/y"][..], &["c", "b/z"], &["a/"]] {
            assert!(gate.change(keys(below)).now_or_never().is_none(), "{below:?}");
        }
        for beside in [&["a"][..], &["ab", "c/a/"]] {
            assert!(gate.change(keys(beside)).now_or_never().is_some(), "{beside:?}");
        }
        assert!(gate.move_dir("a/b/", "c/").now_or_never().is_none(), "it overlaps");
        drop(before);
        let moved = moving.now_or_never().expect("nothing is in its way");
        assert!(gate.change(keys(&["a/y"])).now_or_never().is_none());
        drop(moved);
        assert!(gate.change(keys(&["a/y"])).now_or_never().is_some());
        let state = gate.lock();
        assert_eq!((state.changes.len(), state.moves.len()), (0, 0));
    }
}

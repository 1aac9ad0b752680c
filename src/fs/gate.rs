//! Who may change what while files and directories are renamed.
//!
//! Owns: [`Gate`].
//! Invariants: while something is being renamed nothing at its old or its new key, or below, is changed in S3 but by the
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
    /// What is being renamed: old key, new key; those of directories end in `/`.
    moves: HashMap<u64, [String; 2]>,
}

/// The right to change something, until it is dropped.
pub(super) struct Pass {
    gate: Gate,
    id: u64,
}

impl Gate {
    /// Waits until nothing is being renamed that these keys are of, or lie in.
    pub async fn change(&self, keys: Vec<String>) -> Pass {
        self.until(|state| {
            let free = !state.moves.values().flatten().any(|at| keys.iter().any(|key| lies_in(key, at)));
            free.then(|| state.changes.insert(state.next, keys.clone()))
        })
        .await
    }

    /// Waits until nothing is changed at these keys, or below. From the moment this is called nothing new is.
    pub async fn rename(&self, from: &str, to: &str) -> Pass {
        let keys = [from.to_owned(), to.to_owned()];
        let overlap = |a: &String, b: &String| lies_in(a, b) || lies_in(b, a);
        let pass = self
            .until(|state| {
                let free = !state.moves.values().flatten().any(|a| keys.iter().any(|b| overlap(a, b)));
                free.then(|| state.moves.insert(state.next, keys.clone()))
            })
            .await;
        loop {
            let changed = self.0.changed.notified();
            let concerned = |key: &String| keys.iter().any(|at| lies_in(key, at));
            if !self.lock().changes.values().flatten().any(concerned) {
                return pass;
            }
            changed.await;
        }
    }

    /// Waits while something holds that a rename began, which ends with its pass at the latest.
    pub async fn until_not(&self, holds: impl Fn() -> bool) {
        loop {
            let changed = self.0.changed.notified();
            if !holds() {
                return;
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

/// Whether a key is this one, or below it where it is a directory's.
fn lies_in(key: &str, at: &str) -> bool {
    key == at || at.ends_with('/') && key.starts_with(at)
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
        let mut moving = Box::pin(gate.rename("a/", "b/"));
        assert!(moving.as_mut().now_or_never().is_none(), "a/x is being changed");
        for below in [&["a/y"][..], &["c", "b/z"], &["a/"]] {
            assert!(gate.change(keys(below)).now_or_never().is_none(), "{below:?}");
        }
        for beside in [&["a"][..], &["ab", "c/a/"]] {
            assert!(gate.change(keys(beside)).now_or_never().is_some(), "{beside:?}");
        }
        assert!(gate.rename("a/b/", "c/").now_or_never().is_none(), "it overlaps");
        drop(before);
        let moved = moving.now_or_never().expect("nothing is in its way");
        assert!(gate.change(keys(&["a/y"])).now_or_never().is_none());
        drop(moved);
        let file = gate.rename("f", "g").await;
        assert!(gate.change(keys(&["g"])).now_or_never().is_none());
        assert!(gate.change(keys(&["fg"])).now_or_never().is_some());
        drop(file);
        assert!(gate.change(keys(&["a/y"])).now_or_never().is_some());
        let state = gate.lock();
        assert_eq!((state.changes.len(), state.moves.len()), (0, 0));
    }
}

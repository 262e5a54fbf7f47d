//! Work that is done once, however many want it at the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

/// What is being made, by its key: an image that is pulled, a step that is built.
#[derive(Debug, Default)]
pub struct Turns(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits until nobody else makes it. Whoever has waited looks whether it is there now.
    pub async fn take(&self, key: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(|e| e.into_inner());
            turns.retain(|_, turn| turn.strong_count() > 0);
            let turn = turns.get(key).and_then(Weak::upgrade).unwrap_or_default();
            turns.insert(key.to_string(), Arc::downgrade(&turn));
            turn
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_by_key_and_nothing_is_kept() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        let other = turns.take("b").await;
        assert!(futures::poll!(Box::pin(turns.take("a"))).is_pending(), "`a` is taken");
        drop((first, other));
        drop(turns.take("a").await);
        drop(turns.take("c").await);
        assert!(turns.0.lock().unwrap().len() <= 1, "those of before are gone");
    }
}

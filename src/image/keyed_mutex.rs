//! Work that is done once, however many want it at the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

/// A mutex by key: an image that is pulled, a step that is built.
#[derive(Debug, Default)]
pub struct KeyedMutex(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl KeyedMutex {
    /// Waits until nobody else makes it. Whoever has waited looks whether it is there now.
    pub async fn take(&self, key: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(|e| e.into_inner());
            locks.retain(|_, lock| lock.strong_count() > 0);
            let lock = locks.get(key).and_then(Weak::upgrade).unwrap_or_default();
            locks.insert(key.to_string(), Arc::downgrade(&lock));
            lock
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_by_key_and_nothing_is_kept() {
        let mutex = KeyedMutex::default();
        let first = mutex.take("a").await;
        let other = mutex.take("b").await;
        assert!(futures::poll!(Box::pin(mutex.take("a"))).is_pending(), "`a` is taken");
        drop((first, other));
        drop(mutex.take("a").await);
        drop(mutex.take("c").await);
        assert!(mutex.0.lock().unwrap().len() <= 1, "those of before are gone");
    }
}

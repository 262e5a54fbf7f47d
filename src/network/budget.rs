//! Shared budgets, of which no user can take everything: descriptors, and pending DNS queries.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// So much of something, for many users.
#[derive(Debug)]
pub struct Budget {
    free: Mutex<usize>,
    given_back: Notify,
}

/// One user's share of a budget, such as a published port's or a container's.
///
/// A user may have half as much as is left for others then: one alone gets a third of everything, and each who comes later a third
/// of what is left. However much the others hold, there is something for who has nothing.
#[derive(Clone, Debug)]
pub struct Share {
    budget: Arc<Budget>,
    own: Arc<Mutex<usize>>,
}

/// A part of a budget, given back when this is dropped.
#[derive(Debug)]
pub struct Taken {
    share: Share,
    number: usize,
}

impl Budget {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Budget { free: Mutex::new(most), given_back: Notify::new() })
    }

    /// The share of a new user, who has nothing yet.
    pub fn share(self: &Arc<Self>) -> Share {
        Share { budget: self.clone(), own: Arc::default() }
    }
}

impl Share {
    /// Takes so much, if the user may have it.
    pub fn take(&self, number: usize) -> Option<Taken> {
        let (mut free, mut own) = (locked(&self.budget.free), locked(&self.own));
        let left = free.checked_sub(number)?;
        // Who has nothing may have the last.
        if *own > 0 && (*own + number) * 2 > left {
            return None;
        }
        *free = left;
        *own += number;
        Some(Taken { share: self.clone(), number })
    }

    /// Waits until the user may have so much, and takes it.
    pub async fn wait(&self, number: usize) -> Taken {
        loop {
            let mut given_back = std::pin::pin!(self.budget.given_back.notified());
            given_back.as_mut().enable();
            if let Some(taken) = self.take(number) {
                return taken;
            }
            given_back.await;
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        *locked(&self.share.budget.free) += self.number;
        *locked(&self.share.own) -= self.number;
        self.share.budget.given_back.notify_waiters();
    }
}

fn locked(number: &Mutex<usize>) -> MutexGuard<'_, usize> {
    number.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(share: &Share) -> Vec<Taken> {
        std::iter::from_fn(|| share.take(2)).collect()
    }

    #[test]
    fn whoever_takes_much_leaves_some_to_others() {
        let budget = Budget::new(4096);
        let mut greedy: Vec<Vec<Taken>> = (0..12).map(|_| all(&budget.share())).collect();
        assert_eq!(greedy.iter().map(Vec::len).take(3).collect::<Vec<_>>(), [682, 455, 303]);
        assert!(budget.share().take(2).is_some(), "there is something for the next one");
        greedy.remove(0);
        assert_eq!(greedy.iter().flatten().map(|taken| taken.number).sum::<usize>() + *locked(&budget.free), 4096);
        greedy.clear();
        assert_eq!(*locked(&budget.free), 4096, "everything is given back");
    }

    #[tokio::test]
    async fn who_waits_gets_what_is_given_back() {
        let budget = Budget::new(6);
        let share = budget.share();
        let first = share.take(2).expect("room");
        assert!(share.take(1).is_none(), "a third is the most");
        let waiting = tokio::spawn({
            let share = share.clone();
            async move { share.wait(2).await.number }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        assert_eq!(waiting.await.expect("task"), 2);
        let one = Budget::new(1);
        assert!(one.share().take(1).is_some(), "who has nothing may have the last");
    }
}

//! Which step runs when: two at a time, because each leaves half of a small machine idle.
//!
//! Cargo's steps are one lane, in order: they would wait for each other's locks anyway. The guests are the other. Who has
//! done with cargo's helps with the guests.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    thread,
};

/// Runs everything, and gives each result to `done`, on this thread, as it comes. With one job at a time, cargo's come first.
pub fn run<T: Send, R: Send>(
    cargo: Vec<T>,
    guests: Vec<T>,
    jobs: usize,
    step: impl Fn(&T) -> R + Sync,
    mut done: impl FnMut(T, R),
) {
    let (cargo, guests) = (Mutex::new(VecDeque::from(cargo)), Mutex::new(VecDeque::from(guests)));
    let (sender, results) = mpsc::channel();
    thread::scope(|scope| {
        let (cargo, guests, step) = (&cargo, &guests, &step);
        for job in 0..jobs.max(1) {
            let sender = sender.clone();
            scope.spawn(move || {
                let next = || {
                    let own = if job == 0 { lock(cargo).pop_front() } else { None };
                    own.or_else(|| lock(guests).pop_front())
                };
                while let Some(item) = next() {
                    let result = step(&item);
                    if sender.send((item, result)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (item, result) in results {
            done(item, result);
        }
    });
}

fn lock<T>(queue: &Mutex<T>) -> MutexGuard<'_, T> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Barrier};

    use super::*;

    fn ran(jobs: usize, step: impl Fn(&u32) -> u32 + Sync) -> Vec<(u32, u32)> {
        let mut results = Vec::new();
        run(vec![1, 2], vec![3, 4, 5], jobs, step, |item, result| results.push((item, result)));
        results
    }

    #[test]
    fn everything_runs_once_and_alone_in_order() {
        assert_eq!(ran(1, |n| n * 10), [(1, 10), (2, 20), (3, 30), (4, 40), (5, 50)]);
        let both = ran(2, |n| n * 10);
        assert_eq!((both.len(), both.iter().collect::<BTreeSet<_>>().len()), (5, 5));
    }

    #[test]
    fn a_guest_runs_beside_cargo() {
        let met = Barrier::new(2);
        // Would wait for ever if they ran one after the other.
        let results = ran(2, |n| {
            if matches!(n, 1 | 3) {
                met.wait();
            }
            *n
        });
        assert_eq!(results.len(), 5);
    }
}

//! Waiting for what other processes do to files.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// Nothing tells this process of what others do: it looks again and again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The content of a file that appears whole.
pub async fn appears(file: &Path, limit: Duration) -> String {
    until(limit, &format!("{} to appear", file.display()), || {
        fs::read_to_string(file).ok()
    })
    .await
}

/// Returns when there is nothing at `path`.
pub async fn vanishes(path: &Path, limit: Duration) {
    until(limit, &format!("{} to vanish", path.display()), || {
        (!path.exists()).then_some(())
    })
    .await;
}

/// What `look` sees in the end.
///
/// # Panics
///
/// When it sees nothing within `limit`.
pub async fn until<T>(limit: Duration, what: &str, look: impl Fn() -> Option<T>) -> T {
    let seen = async {
        let mut looks = tokio::time::interval(LOOK_AGAIN);
        loop {
            looks.tick().await;
            if let Some(seen) = look() {
                return seen;
            }
        }
    };
    tokio::time::timeout(limit, seen)
        .await
        .unwrap_or_else(|_| panic!("waited {limit:?} for {what}"))
}

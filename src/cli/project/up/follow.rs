//! A request to the engine whose answer is progress: it is shown, and Ctrl-C cancels it.

use crate::api::client::Client;
use crate::cli::output::Steps;
use crate::cli::signals::{Signal, Signals};
use crate::cli::{Failure, Outcome};
use crate::wire::Progress;

/// The effect of a signal on a command that is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnSignal {
    /// Steps that have not begun do not begin, and the command leaves when the rest has ended; a second one leaves at once.
    Cancel,
    /// The caller sees to it.
    Leave,
}

/// Sends a request whose answer is progress, and shows it.
///
/// # Errors
/// When a step has failed, with exit code 1, or the command was cancelled.
pub async fn follow(client: &Client, path: &str, body: &impl serde::Serialize, quiet: bool) -> Outcome {
    follow_with(client, path, body, OnSignal::Cancel, quiet, |_| ()).await
}

/// As [`follow`], with a look at each event.
///
/// # Errors
/// As [`follow`].
pub async fn follow_with(
    client: &Client,
    path: &str,
    body: &impl serde::Serialize,
    on_signal: OnSignal,
    quiet: bool,
    mut each: impl FnMut(&Progress),
) -> Outcome {
    let number = crate::random::hex::<8>().map_err(|e| Failure::Message(format!("choosing a number: {e}")))?;
    let mut signals = match on_signal {
        OnSignal::Cancel => Some(Signals::listen()?),
        OnSignal::Leave => None,
    };
    let mut next_signal = async || match &mut signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    };
    let mut steps = Steps::new(quiet);
    let mut cancelled: Option<Signal> = None;
    let path_and_number = format!("{path}?command={number}");
    let mut lines = tokio::select! {
        lines = client.post_operation(&path_and_number, body) => lines?,
        signal = next_signal() => {
            eprintln!("canceled");
            return Err(signal.failure());
        }
    };
    loop {
        let progress = tokio::select! {
            line = lines.next::<Progress>() => line?,
            () = steps.go_on() => continue,
            signal = next_signal() => {
                if cancelled.is_some() {
                    return Err(signal.failure());
                }
                cancelled = Some(signal);
                steps.line("Canceling: what has begun is ended, nothing else begins (press Ctrl+C again to leave at once)");
                // `/projects/NAME`, whatever of the project is asked for.
                let parent = path.match_indices('/').nth(2).map_or(path, |(end, _)| &path[..end]);
                // Beside the loop: a second signal does not wait for an engine that does not answer. One that is gone ends the lines.
                let (asking, cancel) = (client.clone(), format!("{parent}/cancel?command={number}"));
                tokio::spawn(async move { asking.post_nothing(&cancel).await });
                continue;
            }
        };
        let Some(progress) = progress else {
            return Err(Failure::Message("the engine left before it was done; run the command again".into()));
        };
        each(&progress);
        let done = steps.show(&progress);
        let asks = matches!(progress, Progress::ChangedVolumes(_));
        match (done, cancelled) {
            (Some(true), None) => return Ok(()),
            (Some(false), None) => return Err(Failure::Code(1)),
            // Everything had begun.
            (Some(_), Some(signal)) => {
                eprintln!("canceled");
                return Err(signal.failure());
            }
            (None, _) if asks => return Ok(()),
            (None, _) => {}
        }
    }
}

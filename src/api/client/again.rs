//! What changes nothing is asked again of the next engine where one dies, or gives way to another.

use super::{Client, ClientError};
use std::io::ErrorKind;
use std::time::Duration;
use tokio::time::Instant;

/// How long an engine that has died may take to come back.
const PATIENCE: Duration = Duration::from_secs(10);
/// A client that has waited for a monitor for so long starts an engine itself.
const UNTIL_START: Duration = Duration::from_millis(500);
const BETWEEN_TRIES: Duration = Duration::from_millis(10);
/// Engines that may die within one start of a container or a command.
pub const MOST_ENGINES: usize = 5;

impl ClientError {
    /// Whether the engine has died, or has given way to another: the next one may answer.
    pub fn is_of_dead_engine(&self) -> bool {
        match self {
            ClientError::Cut | ClientError::Protocol(_) => true,
            ClientError::Connect { .. } => self.was_not_sent(),
            _ => false,
        }
    }

    /// Whether no engine has heard of the request, for want of one.
    pub fn was_not_sent(&self) -> bool {
        matches!(self, ClientError::Connect { source, .. } if matches!(
            source.kind(),
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::NotFound
        ))
    }
}

impl Client {
    /// Asks for what may be asked twice, for as long as it takes to answer.
    ///
    /// # Errors
    /// The engine's refusal; that of a connection where no engine has come back within ten seconds.
    pub async fn ask_again<T>(&self, ask: impl AsyncFn() -> Result<T, ClientError>) -> Result<T, ClientError> {
        self.ask_while(ClientError::is_of_dead_engine, ask).await
    }

    /// Asks for what must not be asked twice, again and again as long as no engine has heard of it.
    ///
    /// # Errors
    /// As [`Client::ask_again`], and that of a connection that has broken since.
    pub async fn ask_until_heard<T>(&self, ask: impl AsyncFn() -> Result<T, ClientError>) -> Result<T, ClientError> {
        self.ask_while(ClientError::was_not_sent, ask).await
    }

    async fn ask_while<T>(
        &self,
        again: impl Fn(&ClientError) -> bool,
        ask: impl AsyncFn() -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let mut failing: Option<Instant> = None;
        let mut next_start = Instant::now();
        loop {
            let asked = Instant::now();
            let error = match ask().await {
                Err(error) if again(&error) && self.starter.is_some() => error,
                other => return other,
            };
            // It has answered, or waited, in between.
            if failing.is_none() || asked.elapsed() > PATIENCE {
                (failing, next_start) = (Some(Instant::now()), Instant::now() + UNTIL_START);
            }
            if failing.is_some_and(|since| since.elapsed() > PATIENCE) {
                return Err(error);
            }
            // Nothing runs any more whose monitor would bring one back.
            if error.was_not_sent() && Instant::now() > next_start {
                self.start_engine().await;
                next_start = Instant::now() + UNTIL_START;
            }
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn a_question_that_an_engine_has_died_over_is_asked_again() {
        let directory = tempfile::tempdir().expect("directory");
        let socket = directory.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).expect("socket");
        let serving = tokio::spawn(async move {
            // One that closes at once, one that has read the question, one that dies in its answer, and one that answers.
            for answer in [
                None,
                Some(""),
                Some("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[1"),
                Some("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n[1]"),
            ] {
                let (mut stream, _) = listener.accept().await.expect("client");
                if let Some(answer) = answer {
                    let _ = stream.read(&mut [0; 1024]).await.expect("question");
                    stream.write_all(answer.as_bytes()).await.expect("answer");
                }
            }
        });
        let client = Client::new(&socket).with_starter(|_, _| {}, Path::new("/"), Path::new("/"));
        assert_eq!(client.get::<Vec<u32>>("/containers/json").await.expect("an answer"), [1]);
        serving.await.expect("all of them were asked");
        // Whatever changes something is asked once.
        let asked = client.post::<Vec<u32>>("/containers/create", &()).await;
        assert!(asked.is_err_and(|error| error.was_not_sent()));
        // Without a way to start an engine there is none to wait for.
        assert!(Client::new(&socket).get::<Vec<u32>>("/containers/json").await.is_err_and(|error| error.is_of_dead_engine()));
    }
}

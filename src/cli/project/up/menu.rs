//! The keys of `up --menu`: `w` switches watching, `d` leaves the containers running. Ctrl-C and Ctrl-Z stay the terminal's.

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use std::io::{IsTerminal, Read};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A key that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MenuKey {
    Watch,
    Detach,
    /// Enter: the keys are shown again.
    Show,
}

/// The terminal gives each key as it is typed, until this is dropped.
pub(super) struct Menu {
    before: Termios,
    keys: mpsc::UnboundedReceiver<MenuKey>,
    /// After Ctrl-Z and `fg` the terminal is as the shell has left it.
    resumed: JoinHandle<()>,
}

impl Menu {
    /// `None` where there is no terminal.
    pub(super) fn open() -> Option<Self> {
        if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
            return None;
        }
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut single = before.clone();
        single.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &single).ok()?;
        let (sender, keys) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let mut byte = [0];
            while std::io::stdin().read(&mut byte).is_ok_and(|n| n > 0) {
                let key = match byte[0] {
                    b'w' => MenuKey::Watch,
                    b'd' => MenuKey::Detach,
                    b'\r' | b'\n' => MenuKey::Show,
                    _ => continue,
                };
                if sender.send(key).is_err() {
                    return;
                }
            }
        });
        let resumed = tokio::spawn(async move {
            let Ok(mut continued) = signal(SignalKind::from_raw(nix::libc::SIGCONT)) else { return };
            while continued.recv().await.is_some() {
                let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &single);
            }
        });
        Some(Menu { before, keys, resumed })
    }

    /// The next key; never, where the terminal is gone.
    pub(super) async fn key(&mut self) -> MenuKey {
        match self.keys.recv().await {
            Some(key) => key,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Menu {
    fn drop(&mut self) {
        self.resumed.abort();
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

/// The line of keys.
pub(super) fn show(watching: bool) {
    eprintln!("w {} Watch   d Detach", if watching { "Disable" } else { "Enable" });
}

//! Attributes of a container over those of its image: what its process gets and `inspect` shows.

use super::ContainerRecord;
use crate::runtime::DEFAULT_PATH;

impl ContainerRecord {
    /// Its entrypoint and its command, as Docker merges those of the image and its own: the image's command is for a container
    /// that has neither, or an entrypoint without anything in it.
    pub fn entrypoint_and_command(&self) -> (Vec<String>, Vec<String>) {
        let (own, image) = (&self.spec, &self.image);
        let entrypoint = own.entrypoint.clone().unwrap_or_else(|| image.entrypoint.clone());
        let empties = own.entrypoint.as_ref().is_none_or(Vec::is_empty);
        let command = match own.command.as_ref().filter(|command| !command.is_empty()) {
            Some(own) => own.clone(),
            None if empties => image.command.clone(),
            None => Vec::new(),
        };
        // `--entrypoint ''` resets the image's.
        (if entrypoint == [""] { Vec::new() } else { entrypoint }, command)
    }

    /// The image's variables under its own.
    pub fn env(&self) -> Vec<String> {
        let mut env = self.image.env.clone();
        merge_into(&mut env, &self.spec.env);
        env
    }

    /// The environment of a process in it: Docker's defaults, the image's variables, its own, and `more`. HOME is set by the container's
    /// first process, which knows the user.
    pub(in crate::engine) fn process_env(&self, more: &[String], hostname: &str, tty: bool) -> Vec<String> {
        let mut env = vec![format!("PATH={DEFAULT_PATH}"), format!("HOSTNAME={hostname}")];
        if tty {
            env.push("TERM=xterm".into());
        }
        for variables in [&self.image.env, &self.spec.env, more] {
            merge_into(&mut env, variables);
        }
        env
    }

    /// Its user; root where it is empty.
    pub fn user(&self) -> &str {
        self.spec.user.as_deref().unwrap_or(&self.image.user)
    }

    /// Its working directory; `/` where it is empty.
    pub fn working_dir(&self) -> &str {
        self.spec.working_dir.as_deref().unwrap_or(&self.image.working_dir)
    }

    /// The signal that asks it to end; SIGTERM where it is `None`.
    pub fn stop_signal(&self) -> Option<&str> {
        self.spec.stop_signal.as_deref().or(self.image.stop_signal.as_deref())
    }
}

/// Puts variables over others of the same names; a name without a value takes one away.
fn merge_into(env: &mut Vec<String>, variables: &[String]) {
    for variable in variables {
        let name = variable.split('=').next().unwrap_or_default();
        let prefix = format!("{name}=");
        let place = env.iter().position(|known| known.starts_with(&prefix));
        match (place, variable.contains('=')) {
            (Some(at), true) => env[at] = variable.clone(),
            (None, true) => env.push(variable.clone()),
            (Some(at), false) => drop(env.remove(at)),
            (None, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_is_over_the_images() {
        let mut record: ContainerRecord = serde_json::from_str(
            r#"{"id": "i", "name": "n", "created_at": "2026-01-01T00:00:00Z", "image_id": "", "layers": [], "spec": {}, "state": {}}"#,
        )
        .expect("record");
        record.image.env = vec!["A=image".into(), "B=image".into(), "C=image".into()];
        record.image.user = "image".into();
        record.image.working_dir = "/image".into();
        record.image.stop_signal = Some("SIGQUIT".into());
        assert_eq!((record.user(), record.working_dir(), record.stop_signal()), ("image", "/image", Some("SIGQUIT")));
        record.spec.env = vec!["B=own".into(), "C".into(), "D=own".into()];
        record.spec.user = Some("own".into());
        record.spec.working_dir = Some("/own".into());
        record.spec.stop_signal = Some("SIGINT".into());
        assert_eq!((record.user(), record.working_dir(), record.stop_signal()), ("own", "/own", Some("SIGINT")));
        assert_eq!(record.env(), ["A=image", "B=own", "D=own"], "each name once");
        let env = record.process_env(&["A=more".into()], "host", true);
        assert_eq!(env[1..], ["HOSTNAME=host", "TERM=xterm", "A=more", "B=own", "D=own"]);
    }
}

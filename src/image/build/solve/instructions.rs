//! Instructions but RUN, COPY and ADD: most of them change the configuration alone.

use super::*;
use crate::image::build::dockerfile;
use crate::image::build::grammar::{is_signal, not_a_port, not_a_signal, ports};
use crate::image::documents::{ImageHealthcheck, Member};
use crate::units::Nanos;

impl Solver {
    /// Performs an instruction; `true` where its layer was in the cache.
    pub(super) async fn perform(self: &Arc<Self>, state: &mut StageState, step: &SolveStep<'_>) -> Result<bool, ImageError> {
        let instruction = step.instruction;
        let text = instruction.text.clone();
        match instruction.keyword.as_str() {
            "RUN" => return self.run(state, step).await,
            "COPY" | "ADD" => return self.copy(state, step).await,
            "WORKDIR" => return self.working_dir(state, step).await,
            "ARG" => self.declare(state, step)?,
            "ENV" => {
                let mut set = Vec::new();
                for (name, value) in pairs(instruction, step.escape).map_err(|m| self.source.at(m))? {
                    set.push((self.expand(step, state, &name)?, self.expand(step, state, &value)?));
                }
                set.iter().for_each(|(name, value)| state.config.config.set_variable(name, value));
            }
            "LABEL" => {
                for (name, value) in pairs(instruction, step.escape).map_err(|m| self.source.at(m))? {
                    let (name, value) = (self.expand(step, state, &name)?, self.expand(step, state, &value)?);
                    state.config.config.labels.insert(name, value);
                }
            }
            "CMD" => {
                let command = self.command_form(state, &instruction.rest);
                state.config.config.cmd = Some(command);
                state.cmd_is_own = true;
            }
            "ENTRYPOINT" => {
                let command = self.command_form(state, &instruction.rest);
                state.config.config.entrypoint = Some(command);
                // The base's arguments are for the base's program.
                if !state.cmd_is_own {
                    state.config.config.cmd = None;
                }
            }
            "USER" => {
                state.config.config.user = self.expand(step, state, &instruction.rest)?;
            }
            "EXPOSE" => self.expose(state, step)?,
            "VOLUME" => self.volumes(state, step)?,
            "STOPSIGNAL" => {
                let signal = self.expand(step, state, &instruction.rest)?;
                if !is_signal(&signal) {
                    return Err(self.wrong(step, not_a_signal(&signal)));
                }
                state.config.config.stop_signal = Some(signal);
            }
            "SHELL" => match json_form(&instruction.rest).filter(|shell| !shell.is_empty()) {
                Some(shell) => state.config.config.shell = shell,
                None => return Err(self.wrong(step, "SHELL needs a list: `SHELL [\"/bin/bash\", \"-c\"]`")),
            },
            "MAINTAINER" => state.config.author = Some(instruction.rest.clone()),
            "HEALTHCHECK" => {
                state.config.config.healthcheck = Some(self.health(state, step)?);
            }
            "ONBUILD" => {
                let inner = dockerfile::instruction(&instruction.rest, instruction.line).map_err(|m| self.source.at(m))?;
                if matches!(inner.keyword.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
                    return Err(self.wrong(step, format!("{} cannot be a trigger of ONBUILD", inner.keyword)));
                }
                state.config.config.on_build.push(instruction.rest.clone());
            }
            other => return Err(self.wrong(step, format!("{other} is not supported"))),
        }
        record(state, &text, false);
        Ok(false)
    }

    fn expose(&self, state: &mut StageState, step: &SolveStep<'_>) -> Result<(), ImageError> {
        for text in self.expand_words(step, state, &step.instruction.rest)? {
            let wrong = || self.wrong(step, not_a_port(&text));
            let members = ports(&text).ok_or_else(wrong)?.into_iter().map(|port| (port, Member {}));
            state.config.config.exposed_ports.extend(members);
        }
        Ok(())
    }

    fn volumes(&self, state: &mut StageState, step: &SolveStep<'_>) -> Result<(), ImageError> {
        let rest = &step.instruction.rest;
        let paths = match json_form(rest) {
            Some(paths) => paths.iter().map(|path| self.expand(step, state, path)).collect::<Result<Vec<_>, _>>()?,
            None => self.expand_words(step, state, rest)?,
        };
        if paths.iter().any(String::is_empty) {
            return Err(self.wrong(step, "VOLUME names an empty path"));
        }
        state.config.config.volumes.extend(paths.into_iter().map(|path| (path, Member {})));
        Ok(())
    }

    fn declare(&self, state: &mut StageState, step: &SolveStep<'_>) -> Result<(), ImageError> {
        for word in words(&step.instruction.rest, step.escape) {
            let (name, default) = match word.split_once('=') {
                Some((name, default)) => (name.to_string(), Some(self.expand(step, state, default)?)),
                None => (word.clone(), None),
            };
            let given = self.request.args.get(&name).cloned();
            let value = given.or(default).or_else(|| self.global_value(&name));
            match value {
                Some(value) => drop(state.args.insert(name, value)),
                None => drop(state.args.remove(&name)),
            }
        }
        Ok(())
    }

    /// A list as it is, a text for the shell.
    fn command_form(&self, state: &StageState, rest: &str) -> Vec<String> {
        json_form(rest).unwrap_or_else(|| {
            let mut command = state.config.config.shell();
            command.push(rest.to_string());
            command
        })
    }

    fn health(&self, state: &StageState, step: &SolveStep<'_>) -> Result<ImageHealthcheck, ImageError> {
        let (kind, command) = step.instruction.rest.split_once(char::is_whitespace).unwrap_or((&step.instruction.rest, ""));
        if kind.eq_ignore_ascii_case("none") {
            return Ok(ImageHealthcheck { test: vec!["NONE".into()], ..ImageHealthcheck::default() });
        }
        if !kind.eq_ignore_ascii_case("cmd") || command.trim().is_empty() {
            return Err(self.wrong(step, "HEALTHCHECK needs `CMD command` or `NONE`"));
        }
        let test = match json_form(command) {
            Some(list) => [vec!["CMD".to_string()], list].concat(),
            None => vec!["CMD-SHELL".to_string(), command.trim().to_string()],
        };
        let mut check = ImageHealthcheck { test, ..ImageHealthcheck::default() };
        for (flag, value) in &step.instruction.flags {
            let value = self.expand(step, state, value)?;
            let duration = || {
                let nanos = value.parse::<Nanos>();
                nanos.map(Some).map_err(|_| self.wrong(step, format!("`{value}` is not a duration such as `30s`")))
            };
            match flag.as_str() {
                "interval" => check.interval = duration()?,
                "timeout" => check.timeout = duration()?,
                "start-period" => check.start_period = duration()?,
                "start-interval" => check.start_interval = duration()?,
                _ => {
                    let retries = value.parse::<u32>();
                    let wrong = |_| self.wrong(step, format!("`{value}` is not a number of retries"));
                    check.retries = Some(retries.map_err(wrong)?);
                }
            }
        }
        Ok(check)
    }

    async fn working_dir(self: &Arc<Self>, state: &mut StageState, step: &SolveStep<'_>) -> Result<bool, ImageError> {
        let wanted = self.expand(step, state, &step.instruction.rest)?;
        let path = absolute(&wanted, &state.config.config.directory());
        state.config.config.working_dir.clone_from(&path);
        // It is the user's who is to work in it.
        let owner = match state.config.config.user.clone() {
            user if user.is_empty() => (0, 0),
            user => self.owner(state, step, &user).await?,
        };
        let owned = format!("{}:{}", owner.0, owner.1);
        let parts = ["WORKDIR", &path, &owned];
        let key = cache::key(&state.key, if owner == (0, 0) { &parts[..2] } else { &parts });
        let directory = PathBuf::from(path);
        let (key, made) = self
            .make(state, &key, move |root, _| {
                copy::make_directory(root.as_fd(), &directory, owner)
                    .map(|_| true)
                    .map_err(ImageError::store(format!("making the directory {}", directory.display())))
            })
            .await?;
        self.finish(state, key, made, &step.instruction.text)
    }
}

//! Templates of `--format`, in the language of Go's text/template, as Docker's commands have them.
//!
//! Own code, since no crate walks the keys of a map in order, as Go does. What is there: fields, variables, `if`, `range`, `with`
//! (each with `else`), pipelines, the comparing and printing functions, and Docker's own (`json`, `join`, `split`, `upper`, `lower`,
//! `title`, `pad`, `truncate`). What is not: `define`, `template`, `block`, `break`, `continue`.

mod functions;
mod parse;

use parse::{Operand, Pipeline, TemplateNode};
use serde_json::Value;

/// A template that has been read.
#[derive(Clone, Debug)]
pub struct Template {
    nodes: Vec<TemplateNode>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// A sentence: what is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse::parse(text).map(|nodes| Template { nodes })
    }

    /// The template with a value for `.`.
    ///
    /// # Errors
    /// A sentence: a field that there is not, or a function's argument that does not fit.
    pub fn render(&self, value: &Value) -> Result<String, String> {
        let mut run = TemplateExecution { out: String::new(), variables: vec![("$".to_string(), value.clone())] };
        run.nodes(&self.nodes, value)?;
        Ok(run.out)
    }
}

struct TemplateExecution {
    out: String,
    /// The innermost last.
    variables: Vec<(String, Value)>,
}

impl TemplateExecution {
    fn nodes(&mut self, nodes: &[TemplateNode], dot: &Value) -> Result<(), String> {
        for node in nodes {
            match node {
                TemplateNode::Text(text) => self.out.push_str(text),
                TemplateNode::Print(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        self.out.push_str(&functions::text(&value));
                    }
                }
                TemplateNode::If { condition, then, otherwise } => {
                    let outside = self.variables.len();
                    let holds = functions::is_true(&self.pipeline(condition, dot)?);
                    self.nodes(if holds { then } else { otherwise }, dot)?;
                    self.variables.truncate(outside);
                }
                TemplateNode::With { value, then, otherwise } => {
                    let outside = self.variables.len();
                    let value = self.pipeline(value, dot)?;
                    match functions::is_true(&value) {
                        true => self.nodes(then, &value)?,
                        false => self.nodes(otherwise, dot)?,
                    }
                    self.variables.truncate(outside);
                }
                TemplateNode::Range { over, each, otherwise } => self.range(over, each, otherwise, dot)?,
            }
        }
        Ok(())
    }

    fn range(&mut self, over: &Pipeline, each: &[TemplateNode], otherwise: &[TemplateNode], dot: &Value) -> Result<(), String> {
        let entries: Vec<(Value, Value)> = match self.commands(over, dot)? {
            Value::Array(list) => list.into_iter().enumerate().map(|(n, value)| (n.into(), value)).collect(),
            Value::Object(map) => {
                let mut entries: Vec<_> = map.into_iter().map(|(key, value)| (Value::String(key), value)).collect();
                entries.sort_by(|a, b| a.0.as_str().cmp(&b.0.as_str()));
                entries
            }
            Value::Null => Vec::new(),
            other => return Err(format!("`range` goes over lists and maps, not over `{}`", functions::text(&other))),
        };
        if entries.is_empty() {
            return self.nodes(otherwise, dot);
        }
        for (key, value) in entries {
            let outside = self.variables.len();
            match over.variables.as_slice() {
                [one] => self.variables.push((one.clone(), value.clone())),
                [first, second] => {
                    self.variables.push((first.clone(), key));
                    self.variables.push((second.clone(), value.clone()));
                }
                _ => {}
            }
            self.nodes(each, &value)?;
            self.variables.truncate(outside);
        }
        Ok(())
    }

    /// A pipeline's value, which its variable has from now on.
    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let value = self.commands(pipeline, dot)?;
        if let [name] = pipeline.variables.as_slice() {
            let known = self.variables.iter_mut().rev().find(|(known, _)| pipeline.assigns && known == name);
            match known {
                Some((_, known)) => known.clone_from(&value),
                None if pipeline.assigns => return Err(format!("there is no variable `{name}` yet: write `{name} := ...`")),
                None => self.variables.push((name.clone(), value.clone())),
            }
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let mut value = None;
        for command in &pipeline.commands {
            let mut operands = command.iter();
            let Some(first) = operands.next() else { continue };
            value = Some(if let Operand::Function(name) = first {
                let mut arguments = operands.map(|operand| self.operand(operand, dot)).collect::<Result<Vec<_>, _>>()?;
                arguments.extend(value.take());
                functions::call(name, arguments)?
            } else {
                if let (None, [_, name], true) = (&value, command.as_slice(), first.name().ends_with(".Label")) {
                    let (labels, name) = (self.operand(first, dot)?, self.operand(name, dot)?);
                    value = Some(functions::label(&labels, &functions::text(&name)));
                    continue;
                }
                if value.is_some() || command.len() > 1 {
                    return Err(format!("`{}` is no function, and takes no argument", first.name()));
                }
                self.operand(first, dot)?
            });
        }
        value.ok_or_else(|| "there is nothing between `{{` and `}}`".into())
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Field(path) => fields(dot, path),
            Operand::Variable(name, path) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                let (_, value) = found.ok_or_else(|| format!("there is no variable `{name}`"))?;
                fields(value, path)
            }
            Operand::Group(pipeline, path) => {
                let value = self.pipeline(pipeline, dot)?;
                fields(&value, path)
            }
            Operand::Function(name) => functions::call(name, Vec::new()),
        }
    }
}

/// Follows fields into a value.
fn fields(value: &Value, path: &[String]) -> Result<Value, String> {
    let mut here = value;
    for name in path {
        here = match here {
            Value::Object(map) => map.get(name).ok_or_else(|| {
                let known: Vec<&str> = map.keys().map(String::as_str).collect();
                match crate::compose::diagnostic::nearest(name, known.iter().copied()) {
                    Some(nearest) => format!("there is no field `{name}`; did you mean `{nearest}`?"),
                    None => format!("there is no field `{name}`; there are {}", known.join(", ")),
                }
            })?,
            Value::Null => &Value::Null,
            other => return Err(format!("`{}` has no field `{name}`: it is no map", functions::text(other))),
        };
    }
    Ok(here.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rendered(template: &str) -> Result<String, String> {
        let value = json!({
            "Name": "/web", "State": {"Status": "running", "Pid": 12, "Health": null, "Ok": true},
            "Mounts": [{"Source": "/a"}, {"Source": "/b"}],
            "Networks": {"z": {"IP": "1.2.3.4"}, "a": {"IP": "5.6.7.8"}, "m": {"IP": ""}},
            "Ports": {"80/tcp": [{"HostPort": "8000"}], "81/tcp": null},
            "Labels": {"a.b": "c", "d": "e"}, "Label": {"a.b": "c", "d": "e"}, "Env": ["A=1", "B=2"], "Size": 1.5, "None": [],
        });
        Template::parse(template)?.render(&value)
    }

    #[test]
    fn as_go_has_it() {
        // What Go 1.19 prints, with the same data and the functions of Docker.
        let table = [
            ("plain", "plain"),
            ("{{.Name}}", "/web"),
            ("{{ .State.Status }} {{.State.Pid}}{{/* a comment */}}", "running 12"),
            ("{{range .Mounts}}{{.Source}} {{end}}", "/a /b "),
            ("{{range $k, $v := .Networks}}{{$k}}={{$v.IP}};{{end}}", "a=5.6.7.8;m=;z=1.2.3.4;"),
            ("{{range $i, $e := .Env}}{{if $i}},{{end}}{{$e}}{{end}}", "A=1,B=2"),
            ("{{range .None}}x{{else}}none{{end}}", "none"),
            ("{{(index (index .Ports \"80/tcp\") 0).HostPort}}", "8000"),
            ("{{range $p, $conf := .Ports}}{{$p}} -> {{range $conf}}{{.HostPort}}{{end}} {{end}}", "80/tcp -> 8000 81/tcp ->  "),
            ("{{index .Labels \"a.b\"}}{{index .Labels \"nope\"}}", "c"),
            ("{{.Labels.d}}", "e"),
            ("{{.Label \"a.b\"}} {{.Label \"nope\"}}.", "c ."),
            ("{{json .State}}", r#"{"Health":null,"Ok":true,"Pid":12,"Status":"running"}"#),
            ("{{.Env | json}} {{json .Name}}", r#"["A=1","B=2"] "/web""#),
            ("{{if .State.Ok}}yes{{else}}no{{end}}", "yes"),
            ("{{if eq .State.Status \"exited\" \"running\"}}a{{else if true}}b{{else}}c{{end}}", "a"),
            ("{{if eq .State.Pid 13}}a{{else if gt .State.Pid 11}}b{{else}}c{{end}}", "b"),
            ("{{if and .State.Ok (not .State.Health)}}y{{end}}", "y"),
            ("{{or .State.Health \"none\"}}", "none"),
            ("{{with .State}}{{.Status}}{{$.Name}}{{end}}", "running/web"),
            ("{{with .None}}x{{else}}-{{end}}", "-"),
            ("{{$x := .Name}}{{$x}}{{$x = \"y\"}}{{$x}}", "/weby"),
            ("a  {{- .Name -}}  b", "a/webb"),
            (
                "{{printf \"%s|%d|%v|%q|%5s|%-5s|%05d|%.2s|%%\" .Name 7 true \"x\" \"r\" \"l\" 42 .Name}}",
                "/web|7|true|\"x\"|    r|l    |00042|/w|%",
            ),
            ("{{len .Env}}{{len .Name}}", "24"),
            ("{{join .Env \", \"}}", "A=1, B=2"),
            ("{{.Name | upper}} {{lower \"ABC\"}} {{title \"abc\"}}", "/WEB abc Abc"),
            ("{{truncate .Name 2}}{{pad .Name 1 2}}|", "/w /web  |"),
            ("{{index (split .Name \"/\") 1}}", "web"),
            ("{{slice .Name 1}}{{slice .Name 0 1}}", "web/"),
            ("{{println .Name}}{{print 1 2 \"a\" \"b\"}}", "/web\n1 2ab"),
            ("{{.Env}} {{.Labels}} {{.State.Health}} {{.Size}}", "[A=1 B=2] map[a.b:c d:e] <no value> 1.5"),
            ("{{`raw`}}{{\"a\\tb\\\"\"}}", "rawa\tb\""),
            ("{{ne 1 2}}{{le 2 2}}{{lt \"a\" \"b\"}}{{ge 1 2}}", "truetruetruefalse"),
        ];
        for (template, expected) in table {
            assert_eq!(rendered(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let table = [
            ("{{.Nam}}", "did you mean `Name`"),
            ("{{.Name.x}}", "no map"),
            ("{{.Name", "never closed"),
            ("{{if .Name}}x", "`if` has no `end`"),
            ("{{end}}", "`end`"),
            ("{{frobnicate .Name}}", "no function `frobnicate`"),
            ("{{index .Env 7}}", "has 2"),
            ("{{\"abc}}", "never closed"),
            ("{{.Name .Env}}", "no function"),
            ("{{}}", "nothing"),
            ("{{$y}}", "no variable `$y`"),
            ("{{template \"x\"}}", "no function `template`"),
            ("{{(.Name}}", "`)`"),
            ("{{.Name ! }}", "`!`"),
            ("{{range .Name}}{{end}}", "`range`"),
        ];
        for (template, expected) in table {
            let error = rendered(template).expect_err(template);
            assert!(error.contains(expected), "{template}: {error}");
        }
        let blocks = |n: usize| format!("{}{}", "{{if .Name}}".repeat(n), "{{end}}".repeat(n));
        let brackets = |n: usize| format!("{{{{{}.Name{}}}}}", "(".repeat(n), ")".repeat(n));
        assert!(rendered(&blocks(90)).is_ok() && rendered(&brackets(90)).is_ok());
        for deep in [blocks(100_000), brackets(100_000), "{{if .Env}}".to_string() + &"{{else if .Name}}".repeat(100_000)] {
            assert!(rendered(&deep).expect_err("too deep").contains("levels deep"));
        }
    }
}

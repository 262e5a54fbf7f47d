//! `--format` of lists and of `inspect`: table, json, or a [`super::template`] for each row.

use super::template::Template;
use crate::cli::{Failure, Outcome, output};
use serde_json::{Map, Value};
use std::str::FromStr;

/// How rows are printed.
#[derive(Clone, Debug, Default)]
pub enum RowFormat {
    /// With the columns that the command has by default.
    #[default]
    Table,
    /// An object a line.
    Json,
    Rows(Template),
    /// `table TEMPLATE`: columns between tabs, under their titles.
    Columns(Template),
}

impl FromStr for RowFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // As Docker has it: what a shell leaves as `\t` and `\n` is meant so.
        let meant = text.replace("\\t", "\t").replace("\\n", "\n");
        match (text, meant.strip_prefix("table ")) {
            ("table" | "", _) => Ok(RowFormat::Table),
            ("json", _) => Ok(RowFormat::Json),
            (_, Some(columns)) => Template::parse(columns.trim_start()).map(RowFormat::Columns),
            (_, None) if meant.contains("{{") => Template::parse(&meant).map(RowFormat::Rows),
            _ => Err("it is table, json, or a template such as '{{.ID}}'".into()),
        }
    }
}

/// How a list of things with ids is asked for.
#[derive(clap::Args, Debug)]
pub struct Listing {
    /// Ids alone.
    #[arg(short, long)]
    pub quiet: bool,
    /// Ids and commands in full.
    #[arg(long)]
    pub no_trunc: bool,
    /// table, json, or a template such as '{{.ID}}'.
    #[arg(long, default_value = "table")]
    pub format: RowFormat,
}

/// The field of a row that has its labels, for `{{.Label "NAME"}}`. It is in no JSON.
pub const LABEL: &str = "Label";

/// A row as JSON prints it.
pub fn without_methods(mut row: Value) -> Value {
    // A row of a list: what is inspected may have a field of that name.
    if let Some(row) = row.as_object_mut().filter(|row| row.contains_key("Labels") || row.contains_key("Repository")) {
        row.remove(LABEL);
    }
    row
}

/// A column: the field's name in templates, and its title in tables.
pub type Column = (&'static str, &'static str);

impl RowFormat {
    /// Prints rows, which are objects. `columns` are those of the table; titles of other fields are their names.
    ///
    /// # Errors
    /// A field that there is not.
    pub fn print(&self, columns: &[Column], rows: &[Value]) -> Outcome {
        let text = self.text(columns, rows)?;
        if !text.is_empty() {
            println!("{text}");
        }
        Ok(())
    }

    /// The same as a text, without the last newline.
    ///
    /// # Errors
    /// A field that there is not.
    pub fn text(&self, columns: &[Column], rows: &[Value]) -> Result<String, Failure> {
        let failed = |why: String| Failure::Message(format!("--format: {why}"));
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
        Ok(match self {
            RowFormat::Table => {
                let header: Vec<&str> = columns.iter().map(|(_, title)| *title).collect();
                let row = |row: &Value| columns.iter().map(|(key, _)| text(&row[*key])).collect();
                output::table(&header, rows.iter().map(row).collect())
            }
            RowFormat::Json => {
                let rows = rows.iter().map(|row| without_methods(row.clone()).to_string());
                rows.collect::<Vec<_>>().join("\n")
            }
            RowFormat::Rows(template) => {
                let lines = rows.iter().map(|row| template.render(row).map_err(failed)).collect::<Result<Vec<_>, _>>()?;
                lines.join("\n")
            }
            RowFormat::Columns(template) => {
                let title = |key: &str| {
                    columns
                        .iter()
                        .find(|(known, _)| *known == key)
                        .map_or_else(|| key.to_uppercase(), |(_, title)| title.to_string())
                };
                // Without a row nobody knows what fields there are but those of the table.
                let keys: Vec<&str> = match rows.first().and_then(Value::as_object) {
                    Some(row) => row.keys().map(String::as_str).collect(),
                    None => columns.iter().map(|(key, _)| *key).collect(),
                };
                let titles = keys.into_iter().map(|key| (key.to_string(), Value::from(title(key)))).collect::<Map<_, _>>();
                let cells = |line: String| line.split('\t').map(str::to_string).collect::<Vec<_>>();
                let header = cells(template.render(&Value::Object(titles)).map_err(failed)?);
                let lines = rows.iter().map(|row| template.render(row).map(cells).map_err(failed)).collect::<Result<_, _>>()?;
                output::table(&header.iter().map(String::as_str).collect::<Vec<_>>(), lines)
            }
        })
    }
}

/// Prints what is known of several things: as a list in JSON, or by a template, each on a line.
///
/// # Errors
/// A field that there is not.
pub fn inspected(format: Option<&str>, all: &[Value]) -> Outcome {
    let failed = |why: String| Failure::Message(format!("--format: {why}"));
    match format {
        None | Some("") => println!("{}", serde_json::to_string_pretty(all).unwrap_or_default()),
        Some("json") => println!("{}", Value::from(all.to_vec())),
        Some(text) => {
            let template = Template::parse(text).map_err(failed)?;
            for value in all {
                println!("{}", template.render(value).map_err(failed)?);
            }
        }
    }
    Ok(())
}

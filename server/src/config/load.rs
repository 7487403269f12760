//! Reading: file, then environment, then section by section, so that one run reports every problem.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use marquee_engine::types::Variant;
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{Config, Events, Secret, check, default_variants};

/// Every problem of a configuration, one sentence each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the configuration has {} problem(s):", self.0.len())?;
        self.0.iter().try_for_each(|problem| writeln!(f, "  - {problem}"))
    }
}

impl std::error::Error for Problems {}

impl Config {
    /// Reads `path` (`None`: no file, defaults alone) and `environment` over it.
    pub fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, Problems> {
        let text = match path {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| Problems(vec![format!("cannot read {}: {error}", path.display())]))?,
        };
        Config::parse(&text, environment)
    }

    /// The same from the file's text.
    pub fn parse(text: &str, environment: impl IntoIterator<Item = (String, String)>) -> Result<Config, Problems> {
        let mut problems = Vec::new();
        let mut tree = text.parse::<Table>().unwrap_or_else(|error| {
            // What it prints of itself repeats the line, and with that a password.
            let line = error
                .span()
                .and_then(|span| text.get(..span.start))
                .map_or(0, |before| before.matches('\n').count() + 1);
            problems.push(format!("not TOML: line {line}: {}", in_one_line(error.message())));
            Table::new()
        });
        let secrets = overlay(&mut tree, environment, &mut problems);
        let config = read(&mut tree, secrets, &mut problems);
        check::check(&config, &mut problems);
        if problems.is_empty() { Ok(config) } else { Err(Problems(problems)) }
    }
}

/// Takes every section out of the tree; what is left then is unknown.
fn read(tree: &mut Table, secrets: Secrets, problems: &mut Vec<String>) -> Config {
    let config = Config {
        namespace: match tree.remove("namespace") {
            None => "default".to_owned(),
            Some(Value::String(name)) => name,
            Some(other) => {
                problems.push(format!("namespace: expected a string, found {}", other.type_str()));
                "default".to_owned()
            }
        },
        server: section(tree, "server", problems),
        store: section(tree, "store", problems),
        cache: section(tree, "cache", problems),
        artifacts: section(tree, "artifacts", problems),
        limits: section(tree, "limits", problems),
        ranking: section(tree, "ranking", problems),
        events: section::<Events>(tree, "events", problems).with_default_kinds(),
        slate_log: section(tree, "slate_log", problems),
        log: section(tree, "log", problems),
        variants: variants(tree, problems),
        admin_token: secrets.admin_token,
        kafka_password: secrets.kafka_password,
    };
    problems.extend(tree.keys().map(|key| format!("{key}: unknown section or key")));
    config
}

fn take_table(tree: &mut Table, name: &str, problems: &mut Vec<String>) -> Table {
    match tree.remove(name) {
        None => Table::new(),
        Some(Value::Table(table)) => table,
        Some(other) => {
            problems.push(format!("{name}: expected a section, found {}", other.type_str()));
            Table::new()
        }
    }
}

/// Reads key by key, so that one bad key hides no other.
fn section<T: Default + DeserializeOwned>(tree: &mut Table, name: &str, problems: &mut Vec<String>) -> T {
    let mut good = Table::new();
    for (key, value) in take_table(tree, name, problems) {
        let alone = Table::from_iter([(key.clone(), value.clone())]);
        match alone.try_into::<T>() {
            Ok(_) => {
                good.insert(key, value);
            }
            Err(error) => problems.push(format!("{name}.{key}: {}", in_one_line(error.message()))),
        }
    }
    good.try_into().unwrap_or_default()
}

/// A built-in recipe keeps the keys that the file does not give; a new one must give them all.
fn variants(tree: &mut Table, problems: &mut Vec<String>) -> BTreeMap<String, Arc<Variant>> {
    let mut variants = default_variants();
    for (name, value) in take_table(tree, "variants", problems) {
        let Value::Table(given) = value else {
            problems.push(format!("variants.{name}: expected a section, found {}", value.type_str()));
            continue;
        };
        if given.contains_key("name") {
            problems.push(format!("variants.{name}.name: unknown key; the section's name is the variant's"));
            continue;
        }
        let mut recipe = variants.get(&name).map_or_else(Table::new, |variant| table_of(variant.as_ref()));
        recipe.extend(given);
        recipe.insert("name".to_owned(), Value::String(name.clone()));
        match recipe.try_into::<Variant>() {
            Ok(variant) => {
                variants.insert(name, Arc::new(variant));
            }
            Err(error) => problems.push(format!("variants.{name}: {}", in_one_line(error.message()))),
        }
    }
    variants
}

fn table_of<T: Serialize>(value: &T) -> Table {
    Table::try_from(value).expect("config types are plain tables")
}

fn in_one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What comes from the environment alone.
#[derive(Default)]
struct Secrets {
    admin_token: Option<Secret>,
    kafka_password: Option<Secret>,
}

/// Writes environment variables into the tree; gives the secrets back apart.
fn overlay(
    tree: &mut Table,
    environment: impl IntoIterator<Item = (String, String)>,
    problems: &mut Vec<String>,
) -> Secrets {
    let defaults = table_of(&Config::default());
    let mut secrets = Secrets::default();
    let variables: BTreeMap<String, String> = environment.into_iter().collect();
    for (variable, text) in variables {
        let Some(rest) = variable.strip_prefix("MARQUEE_") else { continue };
        let secret = match rest {
            "ADMIN_TOKEN" => Some(&mut secrets.admin_token),
            "KAFKA_PASSWORD" => Some(&mut secrets.kafka_password),
            _ => None,
        };
        if let Some(secret) = secret {
            *secret = (!text.is_empty()).then(|| Secret::new(text));
            continue;
        }
        if rest != "NAMESPACE" && !rest.contains("__") {
            continue;
        }
        let path: Vec<String> = rest.split("__").map(str::to_lowercase).collect();
        let value = typed(&path, text, &defaults);
        if let Err(reason) = put(tree, &path, value) {
            problems.push(format!("environment variable {variable}: {reason}"));
        }
    }
    secrets
}

/// A key whose default is a string takes the text as it is; any other is read as TOML.
fn typed(path: &[String], text: String, defaults: &Table) -> Value {
    let default = path.iter().try_fold(None::<&Value>, |at, key| match at {
        None => defaults.get(key).map(Some),
        Some(value) => value.get(key).map(Some),
    });
    if let Some(Some(Value::String(_))) = default {
        return Value::String(text);
    }
    match format!("value = {text}").parse::<Table>() {
        Ok(mut parsed) if parsed.len() == 1 => parsed.remove("value").unwrap_or(Value::String(text)),
        _ => Value::String(text),
    }
}

fn put(tree: &mut Table, path: &[String], value: Value) -> Result<(), String> {
    match path {
        [] => Err("names no key".to_owned()),
        [key] if key.is_empty() => Err("names no key".to_owned()),
        [key] => {
            tree.insert(key.clone(), value);
            Ok(())
        }
        [key, rest @ ..] => {
            let child = tree.entry(key.clone()).or_insert_with(|| Value::Table(Table::new()));
            match child {
                Value::Table(table) => put(table, rest, value),
                _ => Err(format!("`{key}` is a value, not a section")),
            }
        }
    }
}

#[cfg(test)]
mod tests;

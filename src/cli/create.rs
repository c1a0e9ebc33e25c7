//! `sandboxctl create`

use clap::Args;

use client::{CreateSandbox, ExternalIds};
use model::{ByteSize, Isolation, RootFs, SandboxId, TemplateName};

use super::context::Context;
use super::failure::Failure;
use super::limits::{Limit, object, parse_limit};

const EXAMPLES: &str = "\
Examples:
  sandboxctl create
  sandboxctl create --port 3000 --memory 512M --env GREETING=hello
  sandboxctl create --limit memory_max=1G --limit cpu_max=0.5
  sandboxctl create --user u1 --project p1 --private --always-on
  id=$(sandboxctl create) && sandboxctl exec $id -- true && sandboxctl purge $id";

/// Create a sandbox and print its id when it takes commands
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Create {
    /// A port that previews may reach; repeat for more
    #[arg(short, long = "port", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    ports: Vec<u16>,
    /// A variable of every process in it; repeat for more
    #[arg(short, long = "env", value_name = "KEY=VALUE", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// What the app directory begins with; `blank` for nothing
    #[arg(short, long, value_name = "NAME")]
    template: Option<TemplateName>,
    /// What it is for, as `sandboxctl presets` lists it: a template and its ports
    #[arg(long, value_name = "NAME")]
    preset: Option<TemplateName>,
    /// An id of your own, or of a deleted sandbox whose workspace is to come back
    #[arg(long, value_name = "ULID")]
    id: Option<SandboxId>,
    /// How much memory it may use, for example 512M or 2G
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Another limit, as `sandboxctl limits` shows them; repeat for more
    #[arg(short, long = "limit", value_name = "NAME=VALUE", value_parser = parse_limit)]
    limits: Vec<Limit>,
    /// Whose it is, in your own terms
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Which project of yours it is
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
    /// Show its previews to those only who have a token for it
    #[arg(long)]
    private: bool,
    /// Never put it to sleep
    #[arg(long)]
    always_on: bool,
    /// What stands between it and the host: `container` or `gvisor`
    #[arg(long, value_name = "TIER")]
    isolation: Option<Isolation>,
    /// What its root file system takes: `read_only`, or `overlay` for what `--user root` installs
    #[arg(long, value_name = "KIND")]
    rootfs: Option<RootFs>,
    /// Let its programs make namespaces of their own, as Chromium does for its sandbox
    #[arg(long)]
    nested_namespaces: bool,
}

impl Create {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let created = context.client.create(&self.request()).await;
        let created = created.map_err(|e| context.failure("create a sandbox", e))?;
        if context.is_json {
            return context.emit_json(&created.json);
        }
        if let Some(message) = created.value.error_message.filter(|m| !m.is_empty()) {
            context.note(&format!("note: {message}"));
        }
        context.emit(format!("{}\n", super::text::printable(&created.value.id)).as_bytes())
    }

    fn request(&self) -> CreateSandbox {
        let has_owner = self.user.is_some() || self.project.is_some();
        CreateSandbox {
            id: self.id.map(|id| id.to_string()),
            ports: self.ports.clone(),
            env: self.env.iter().cloned().collect(),
            template: self.template.as_ref().map(ToString::to_string),
            memory_high: self.memory.map(|size| size.to_string()),
            limits: object(&self.limits),
            visibility: self.private.then_some("private"),
            runtime_preset: self.preset.as_ref().map(ToString::to_string),
            idle_policy: self.always_on.then_some("always_on"),
            isolation: self.isolation.map(Isolation::as_str),
            rootfs: self.rootfs.map(RootFs::as_str),
            nested_namespaces: self.nested_namespaces.then_some(true),
            external: has_owner
                .then(|| ExternalIds { user_id: self.user.clone(), project_id: self.project.clone() }),
        }
    }
}

/// Reads `KEY=VALUE`; the value may hold further `=`.
pub(super) fn parse_variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it has the form KEY=VALUE")?;
    if name.is_empty() || text.contains(['\n', '\0']) {
        return Err("the name is not empty, and neither has a newline".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    fn json(arguments: &str) -> String {
        let line = Line::try_parse_from(format!("create {arguments}").split_whitespace()).unwrap();
        serde_json::to_string(&line.create.request()).unwrap()
    }

    #[test]
    fn options_become_the_request() {
        assert_eq!(json(""), "{}");
        assert_eq!(
            json(
                "-p 3000 --port 8080 --env A=b=c -e D= --memory 1024M --always-on --user u --template python --isolation gvisor --rootfs overlay --nested-namespaces"
            ),
            r#"{"ports":[3000,8080],"env":{"A":"b=c","D":""},"template":"python","memory_high":"1G","idle_policy":"always_on","isolation":"gvisor","rootfs":"overlay","nested_namespaces":true,"external":{"user_id":"u"}}"#
        );
        assert_eq!(
            json("--id 01arz3ndektsv4rrffq69g5fav --project p"),
            r#"{"id":"01ARZ3NDEKTSV4RRFFQ69G5FAV","external":{"project_id":"p"}}"#
        );
    }

    #[test]
    fn a_variable_has_a_name() {
        assert_eq!(parse_variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        for text in ["", "A", "=b", "A=b\nC=d", "A\0=b"] {
            assert!(parse_variable(text).is_err(), "{text:?}");
        }
    }
}

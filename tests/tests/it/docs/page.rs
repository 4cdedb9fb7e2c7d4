//! Reads a page: console blocks, and the comments that are for the test.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

/// What a page has a reader do, in its order.
#[derive(Debug)]
pub struct Page {
    pub steps: Vec<Step>,
}

/// One thing to do; `line` counts from 1.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A code block that is a file.
    File { name: String, text: String },
    /// A command that the page does not show.
    Run { line: usize, command: String },
    /// A command and what it prints.
    Command { line: usize, command: String, output: Vec<String> },
    /// A console block that cannot run in a test.
    NotRun { line: usize, reason: String },
}

/// What a comment says of the block after it.
enum Next {
    File(String),
    NotRun(String),
}

const COMMENT: &str = "<!-- docs-test ";

impl Page {
    /// Reads a page of the repository.
    pub fn read(root: &Path, path: &str) -> Result<Self> {
        let file = root.join(path);
        let text = std::fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
        Self::parse(&text).with_context(|| path.to_owned())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut steps = Vec::new();
        let mut next = None;
        let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        while let Some((line, text)) = lines.next() {
            if let Some(comment) = text.strip_prefix(COMMENT) {
                ensure!(next.is_none(), "line {line}: the comment before has no block");
                if comment == "run" {
                    let commands = lines.by_ref().take_while(|(_, text)| *text != "-->");
                    steps.extend(commands.map(|(line, text)| Step::Run { line, command: text.to_owned() }));
                    continue;
                }
                let Some(comment) = comment.strip_suffix(" -->") else {
                    let name =
                        comment.strip_prefix("file ").with_context(|| format!("line {line}: no ` -->` at its end"))?;
                    let text = lines.by_ref().take_while(|(_, text)| *text != "-->");
                    let text = text.map(|(_, text)| format!("{text}\n")).collect();
                    steps.push(Step::File { name: name.to_owned(), text });
                    continue;
                };
                next = Some(match (comment.strip_prefix("file "), comment.strip_prefix("not run: ")) {
                    (Some(name), _) => Next::File(name.to_owned()),
                    (_, Some(reason)) => Next::NotRun(reason.to_owned()),
                    _ => bail!("line {line}: `{comment}` is no comment of `it::docs`"),
                });
            } else if let Some(language) = text.strip_prefix("```") {
                let block: Vec<_> = lines.by_ref().take_while(|(_, text)| *text != "```").collect();
                match (next.take(), language) {
                    (Some(Next::File(name)), _) => {
                        let text = block.iter().map(|(_, text)| format!("{text}\n")).collect();
                        steps.push(Step::File { name, text });
                    }
                    (Some(Next::NotRun(reason)), "console") => steps.push(Step::NotRun { line, reason }),
                    (None, "console") => steps.extend(commands(&block)?),
                    (Some(Next::NotRun(_)), _) => bail!("line {line}: only a console block would run"),
                    (None, _) => {}
                }
            }
        }
        ensure!(next.is_none(), "the last comment has no block");
        Ok(Self { steps })
    }
}

/// The commands of a console block: a line with `$ `, lines with `> ` that continue it, what it prints.
fn commands(block: &[(usize, &str)]) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for (line, text) in block {
        if let Some(command) = text.strip_prefix("$ ") {
            steps.push(Step::Command { line: *line, command: command.to_owned(), output: Vec::new() });
            continue;
        }
        let Some(Step::Command { command, output, .. }) = steps.last_mut() else {
            bail!("line {line}: a console block begins with `$ `");
        };
        match text.strip_prefix("> ") {
            Some(more) if output.is_empty() => *command = format!("{command}\n{more}"),
            _ => output.push((*text).to_owned()),
        }
    }
    ensure!(!steps.is_empty(), "a console block without a command");
    Ok(steps)
}

#[test]
fn a_page_is_read_with_its_comments() {
    let text = "# T\n<!-- docs-test file y\nz\n-->\n<!-- docs-test run\na\nb -->\n-->\n<!-- docs-test file x.yaml -->\n```yaml\nk: v\n```\n\
                ```console\n$ one\n> two\nout\n$ three\n```\n<!-- docs-test not run: far away -->\n```console\n$ four\n```\n";
    let command = |line, command: &str, output: &[&str]| Step::Command {
        line,
        command: command.to_owned(),
        output: output.iter().map(|text| (*text).to_owned()).collect(),
    };
    let run = |line, command: &str| Step::Run { line, command: command.to_owned() };
    assert_eq!(
        Page::parse(text).unwrap().steps,
        [
            Step::File { name: "y".to_owned(), text: "z\n".to_owned() },
            run(6, "a"),
            run(7, "b -->"),
            Step::File { name: "x.yaml".to_owned(), text: "k: v\n".to_owned() },
            command(14, "one\ntwo", &["out"]),
            command(17, "three", &[]),
            Step::NotRun { line: 20, reason: "far away".to_owned() },
        ]
    );
    for wrong in ["```console\nout\n```", "<!-- docs-test what -->", "<!-- docs-test file x -->", "```console\n```"] {
        assert!(Page::parse(wrong).is_err(), "{wrong}");
    }
}

//! What the probe has looked at and found.

use std::fmt::Display;
use std::io::Write as _;

/// Findings as they come, and how much was looked at.
#[derive(Debug, Default)]
pub(crate) struct Report {
    checks: usize,
    findings: Vec<String>,
}

impl Report {
    /// One thing that was looked at: a finding unless it is as it should be.
    pub(crate) fn check(&mut self, is_safe: bool, area: &str, what: impl Display) {
        self.checks += 1;
        if !is_safe {
            self.findings.push(format!("finding {area}: {what}"));
        }
    }

    /// Prints a line for each finding, then the counts; returns whether there was none.
    pub(crate) fn print(&self) -> bool {
        let mut output = std::io::stdout().lock();
        for finding in &self.findings {
            // Whoever does not read the report sees the exit status.
            let _ignored: std::io::Result<()> = writeln!(output, "{finding}");
        }
        let _ignored: std::io::Result<()> =
            writeln!(output, "{} checks, {} findings", self.checks, self.findings.len());
        self.findings.is_empty()
    }
}

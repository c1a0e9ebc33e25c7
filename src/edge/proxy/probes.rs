//! Requests of health checkers, which are told apart so that they keep nothing awake.

use http::{Request, header};

/// How they are known.
#[derive(Debug, Clone, Default)]
pub struct Probes {
    /// Parts of their `User-Agent`.
    agents: Vec<String>,
    /// Paths that nobody else asks for.
    paths: Vec<String>,
}

impl Probes {
    pub fn new(agents: Vec<String>, paths: Vec<String>) -> Self {
        Self { agents, paths }
    }

    pub(super) fn is_probe<B>(&self, request: &Request<B>) -> bool {
        let agent = request.headers().get(header::USER_AGENT).and_then(|v| v.to_str().ok());
        agent.is_some_and(|agent| self.agents.iter().any(|known| agent.contains(known.as_str())))
            || self.paths.iter().any(|path| path == request.uri().path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_known_by_agent_or_path() {
        let probes = Probes::new(vec!["kube-probe/".into()], vec!["/healthz".into()]);
        let is_probe = |path: &str, agent: &str| {
            let request = Request::builder().uri(path).header(header::USER_AGENT, agent).body(());
            probes.is_probe(&request.unwrap())
        };
        assert!(is_probe("/", "kube-probe/1.30") && is_probe("/healthz?x=1", "curl"));
        assert!(!is_probe("/", "curl") && !is_probe("/healthz/more", "Mozilla kube"));
        assert!(!Probes::default().is_probe(&Request::new(())));
    }
}

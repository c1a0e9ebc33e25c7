//! What a new app can begin as: each template is a preset, with the ports that its manifest declares.

use std::sync::Arc;

use super::error::Error;
use super::request::CreateRequest;
use crate::supervisor::Supervisor;
use crate::tasks::blocking;
use storage::TemplateInfo;

/// A template, and what runs and is exposed in a sandbox that is made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preset {
    /// The template's.
    pub name: String,
    pub description: String,
    pub ports: Vec<u16>,
    pub process_names: Vec<String>,
}

impl Supervisor {
    /// Lists the presets by name.
    ///
    /// # Errors
    /// The templates cannot be read.
    pub async fn presets(&self) -> Result<Vec<Preset>, Error> {
        let shared = Arc::clone(&self.shared);
        let found = blocking(move || shared.storage.templates().map_err(Error::Storage)).await?;
        let convert = |info: TemplateInfo| Preset {
            name: info.name,
            description: info.description,
            ports: info.ports,
            process_names: info.process_names,
        };
        Ok(found.into_iter().map(convert).collect())
    }

    /// The ports of a new sandbox: those that the client names, else those of the template's manifest, so
    /// that a sandbox that sleeps is woken by its preview also when nobody has read its manifest yet.
    pub(super) async fn ports_of(&self, request: &CreateRequest) -> Result<Vec<u16>, Error> {
        if !request.ports.is_empty() {
            return Ok(request.ports.clone());
        }
        let declared = match request.template.clone().filter(|t| !t.is_blank()) {
            Some(template) => {
                let shared = Arc::clone(&self.shared);
                blocking(move || Ok(shared.storage.template_info(&template))).await?
            }
            None => None,
        };
        let declared = declared.map(|info| info.ports).unwrap_or_default();
        Ok(if declared.is_empty() { request.ports_default.clone() } else { declared })
    }
}

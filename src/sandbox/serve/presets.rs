//! What a new app can begin as: each template is a preset, with the ports that its manifest declares.

use std::sync::Arc;

use crate::base::error::Error;
use crate::base::tasks::blocking;
use crate::serve::serving::Serving;
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

/// Lists the presets by name.
pub(crate) async fn presets(serving: &Arc<Serving>) -> Result<Vec<Preset>, Error> {
    let serving = Arc::clone(serving);
    let found = blocking(move || serving.ground.host.storage.templates().map_err(Error::Storage)).await?;
    let convert = |info: TemplateInfo| Preset {
        name: info.name,
        description: info.description,
        ports: info.ports,
        process_names: info.process_names,
    };
    Ok(found.into_iter().map(convert).collect())
}

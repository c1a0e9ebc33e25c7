//! Templates: directories of the host's own that new apps begin as.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use crate::error::StorageError;
use crate::{MANIFEST, Storage};
use model::TemplateName;
use model::manifest::Manifest;

/// How much of a template's README is read for its first sentence.
const README_BYTES_MAX: u64 = 8 * 1024;

/// A template, and what its manifest declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateInfo {
    pub name: String,
    /// The first paragraph of its `README.md`.
    pub description: String,
    /// The port of its web process.
    pub ports: Vec<u16>,
    pub process_names: Vec<String>,
}

impl Storage {
    /// Looks at all templates, by name.
    ///
    /// # Errors
    /// Their directory cannot be read.
    pub fn templates(&self) -> Result<Vec<TemplateInfo>, StorageError> {
        let directory = &self.config.templates_dir;
        let entries = fs::read_dir(directory).map_err(StorageError::at("list", directory))?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut found: Vec<_> = names
            .filter_map(|name| name.parse::<TemplateName>().ok())
            .filter_map(|name| self.template_info(&name))
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Looks at one template; `None` when there is none of this name.
    pub fn template_info(&self, name: &TemplateName) -> Option<TemplateInfo> {
        let directory = self.config.templates_dir.join(name.as_str());
        if !directory.is_dir() {
            return None;
        }
        let manifest = fs::read(directory.join(MANIFEST)).ok().and_then(|text| Manifest::parse(&text).ok());
        let web = manifest.as_ref().and_then(|m| m.web.as_ref());
        let workers = manifest.iter().flat_map(|m| &m.workers).map(|w| w.name.clone());
        Some(TemplateInfo {
            name: name.to_string(),
            description: first_paragraph(&directory.join("README.md")),
            ports: web.map(|w| w.port).into_iter().collect(),
            process_names: web.map(|_| "web".to_owned()).into_iter().chain(workers).collect(),
        })
    }
}

fn first_paragraph(readme: &Path) -> String {
    let mut text = String::new();
    let read = fs::File::open(readme).and_then(|file| file.take(README_BYTES_MAX).read_to_string(&mut text));
    if read.is_err() {
        return String::new();
    }
    let lines = text.lines().map(str::trim).skip_while(|l| l.is_empty() || l.starts_with('#'));
    let paragraph = lines.take_while(|l| !l.is_empty()).collect::<Vec<_>>().join(" ");
    // A sentence that ends so needs what follows it.
    match paragraph.strip_suffix(':').and_then(|text| text.rsplit_once(". ")) {
        Some((whole, _)) => format!("{whole}."),
        None => paragraph,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn templates_are_described_by_what_is_in_them() {
        let data = tempfile::tempdir().unwrap();
        let templates_dir = data.path().join("templates");
        fs::create_dir_all(templates_dir.join("shop")).unwrap();
        fs::create_dir_all(templates_dir.join("Not A Name")).unwrap();
        fs::create_dir_all(templates_dir.join("empty")).unwrap();
        let shop = templates_dir.join("shop");
        fs::write(shop.join("README.md"), "# Shop\n\nSells\nthings. Begin\nwith:\n\n    More.\n").unwrap();
        let manifest = "version: 1\nweb: {command: x, port: 8000}\nworkers: [{name: mail, command: y}]\n";
        fs::write(shop.join(MANIFEST), manifest).unwrap();
        let config =
            Config { data_dir: data.path().join("data"), rootfs: data.path().to_owned(), templates_dir };
        let storage = Storage::open(config).unwrap();
        let expected = TemplateInfo {
            name: "shop".to_owned(),
            description: "Sells things.".to_owned(),
            ports: vec![8000],
            process_names: vec!["web".to_owned(), "mail".to_owned()],
        };
        let found = storage.templates().unwrap();
        assert_eq!(found.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["empty", "shop"]);
        assert_eq!(storage.template_info(&"shop".parse().unwrap()), Some(expected));
        assert_eq!(storage.template_info(&"gone".parse().unwrap()), None);
    }
}

// The mapper of docs/writing-a-mapper.md and of the crate's front page: its devices are directories.
// Included by tests/tutorial.rs, which is why this is no module documentation.

use std::path::PathBuf;

use mapper_sdk::{Driver, DriverError, ObjectId, Property, Value};
use serde::Deserialize;

struct Files;

#[derive(Deserialize, Clone)]
struct Directory {
    path: PathBuf,
}

#[derive(Deserialize)]
struct File {
    file: String,
}

impl Driver for Files {
    const PROTOCOL: &'static str = "files";
    type Protocol = Directory;
    type Visitor = File;
    type Connection = PathBuf;

    async fn connect(&self, _: &ObjectId, directory: &Directory) -> Result<PathBuf, DriverError> {
        std::fs::metadata(&directory.path)?; // no directory: the device is offline
        Ok(directory.path.clone())
    }

    async fn read(
        &self,
        at: &mut PathBuf,
        property: &Property<File>,
    ) -> Result<Value, DriverError> {
        let text = std::fs::read_to_string(at.join(&property.visitor.file))
            .map_err(DriverError::failed)?; // one property failed, the device is still there
        Value::parse(text.trim(), property.data_type).map_err(DriverError::failed)
    }

    async fn write(
        &self,
        at: &mut PathBuf,
        property: &Property<File>,
        value: &Value,
    ) -> Result<(), DriverError> {
        Ok(std::fs::write(at.join(&property.visitor.file), value.to_string())?)
    }
}

fn main() -> std::process::ExitCode {
    mapper_sdk::main(Files, mapper_sdk::about!())
}

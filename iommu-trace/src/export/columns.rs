//! One table as a Parquet file: rows in, column by column out.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use parquet::{
    basic::Compression,
    data_type::{ByteArray, ByteArrayType, Int64Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};

use crate::output::{create_new, quoted};

/// Rows that are written at once.
const GROUP: usize = 64 * 1024;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number that is never negative.
    Unsigned,
    /// A number.
    Signed,
    /// A text.
    Text,
}

/// Names and kinds, in their order.
pub type Columns = &'static [(&'static str, Kind)];

/// What one row has in one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// For [`Kind::Unsigned`].
    Unsigned(Option<u64>),
    /// For [`Kind::Signed`].
    Signed(Option<i64>),
    /// For [`Kind::Text`].
    Text(Option<String>),
}

impl Cell {
    /// A text.
    pub fn text(text: &str) -> Cell {
        Cell::Text(Some(text.to_owned()))
    }
}

impl From<u64> for Cell {
    fn from(value: u64) -> Self {
        Cell::Unsigned(Some(value))
    }
}

impl From<u32> for Cell {
    fn from(value: u32) -> Self {
        Cell::Unsigned(Some(value.into()))
    }
}

impl From<Option<u64>> for Cell {
    fn from(value: Option<u64>) -> Self {
        Cell::Unsigned(value)
    }
}

impl From<Option<u32>> for Cell {
    fn from(value: Option<u32>) -> Self {
        Cell::Unsigned(value.map(u64::from))
    }
}

/// A file of rows.
pub struct Table {
    path: PathBuf,
    columns: usize,
    rows: Vec<Vec<Cell>>,
    writer: SerializedFileWriter<File>,
}

impl Table {
    /// Creates `DIR/NAME.parquet`, which must not be there, with the columns `first` and those that are given then.
    pub fn create(
        dir: &Path,
        name: &'static str,
        first: Columns,
    ) -> anyhow::Result<impl FnOnce(Columns) -> anyhow::Result<Table>> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create the directory {}", quoted(dir)))?;
        let path = dir.join(format!("{name}.parquet"));
        Ok(move |columns: Columns| {
            let mut message = format!("message {name} {{\n");
            for (column, kind) in first.iter().chain(columns) {
                message.push_str(&match kind {
                    Kind::Unsigned => format!("OPTIONAL INT64 {column} (INTEGER(64,false));\n"),
                    Kind::Signed => format!("OPTIONAL INT64 {column};\n"),
                    Kind::Text => format!("OPTIONAL BYTE_ARRAY {column} (UTF8);\n"),
                });
            }
            message.push('}');
            let schema = parse_message_type(&message).with_context(|| format!("the schema of {name} is wrong"))?;
            let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
            let file = create_new(&path);
            let file = file.with_context(|| format!("cannot create {}", quoted(&path)))?;
            let writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties))
                .with_context(|| format!("cannot write to {}", quoted(&path)))?;
            Ok(Table { path, columns: first.len() + columns.len(), rows: Vec::new(), writer })
        })
    }

    /// Appends a row.
    pub fn row(&mut self, cells: Vec<Cell>) -> anyhow::Result<()> {
        if cells.len() != self.columns {
            bail!("a row of {} has {} cells and not {}", quoted(&self.path), cells.len(), self.columns);
        }
        self.rows.push(cells);
        if self.rows.len() >= GROUP { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return Ok(());
        }
        let mut write = || -> parquet::errors::Result<()> {
            let mut group = self.writer.next_row_group()?;
            let mut at = 0;
            while let Some(mut column) = group.next_column()? {
                let cells = rows.iter().filter_map(|row| row.get(at));
                let (mut levels, mut numbers, mut texts) = (Vec::with_capacity(rows.len()), Vec::new(), Vec::new());
                let mut is_text = false;
                for cell in cells {
                    let there = match cell {
                        Cell::Unsigned(value) => value.map(|value| numbers.push(value as i64)).is_some(),
                        Cell::Signed(value) => value.map(|value| numbers.push(value)).is_some(),
                        Cell::Text(text) => {
                            is_text = true;
                            text.as_ref().map(|text| texts.push(ByteArray::from(text.as_str()))).is_some()
                        }
                    };
                    levels.push(i16::from(there));
                }
                if is_text {
                    column.typed::<ByteArrayType>().write_batch(&texts, Some(&levels), None)?;
                } else {
                    column.typed::<Int64Type>().write_batch(&numbers, Some(&levels), None)?;
                }
                column.close()?;
                at += 1;
            }
            group.close()?;
            Ok(())
        };
        write().with_context(|| format!("cannot write to {}", quoted(&self.path)))
    }

    /// Writes what is left, and the end of the file.
    pub fn close(mut self) -> anyhow::Result<()> {
        self.flush()?;
        self.writer.close().with_context(|| format!("cannot write to {}", quoted(&self.path)))?;
        Ok(())
    }
}

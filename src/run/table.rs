//! Plain rows ⇄ parquet: the format in which stages talk to each other. A table is a struct; its columns are its fields.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::error::{Error, Result};
use crate::run::files;

/// A type that can be one cell of a table.
pub trait Cell: Sized {
    /// Arrow type of the column and whether it may hold nulls.
    const TYPE: (DataType, bool);
    /// One column from its cells.
    fn column<'a>(cells: impl Iterator<Item = &'a Self>) -> ArrayRef
    where
        Self: 'a;
    /// The cells of a column; `None` where the column has another type.
    fn cells(column: &ArrayRef) -> Option<Vec<Self>>;
}

macro_rules! cell {
    ($type:ty, $array:ty, $data_type:expr, $into:expr, $from:expr) => {
        impl Cell for $type {
            const TYPE: (DataType, bool) = ($data_type, false);
            fn column<'a>(cells: impl Iterator<Item = &'a Self>) -> ArrayRef {
                Arc::new(cells.map($into).collect::<Vec<_>>().into_iter().map(Some).collect::<$array>())
            }
            fn cells(column: &ArrayRef) -> Option<Vec<Self>> {
                let column = column.as_any().downcast_ref::<$array>()?;
                column.iter().map(|cell| cell.map($from)).collect()
            }
        }
        impl Cell for Option<$type> {
            const TYPE: (DataType, bool) = ($data_type, true);
            fn column<'a>(cells: impl Iterator<Item = &'a Self>) -> ArrayRef {
                Arc::new(cells.map(|cell| cell.as_ref().map($into)).collect::<$array>())
            }
            fn cells(column: &ArrayRef) -> Option<Vec<Self>> {
                let column = column.as_any().downcast_ref::<$array>()?;
                Some(column.iter().map(|cell| cell.map($from)).collect())
            }
        }
    };
}

cell!(u64, UInt64Array, DataType::UInt64, |&v| v, |v| v);
cell!(f64, Float64Array, DataType::Float64, |&v| v, |v| v);
cell!(bool, BooleanArray, DataType::Boolean, |&v| v, |v| v);
cell!(String, StringArray, DataType::Utf8, |v: &String| v.clone(), |v: &str| v.to_owned());

/// Declares a table: a struct with documented fields of `u64`, `f64`, `bool`, `String` or an `Option` of these, with
/// `write(path, &rows)` (parquet, snappy, by rename) and `read(path, hint)` (columns by name; others are ignored).
#[macro_export]
macro_rules! table {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident : $type:ty),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type),+ }

        impl $name {
            /// Writes the rows as parquet, by rename.
            pub fn write(path: &std::path::Path, rows: &[Self]) -> $crate::error::Result<()> {
                let columns = vec![$({
                    let (data_type, nullable) = <$type as $crate::run::table::Cell>::TYPE;
                    let array = <$type as $crate::run::table::Cell>::column(rows.iter().map(|row| &row.$field));
                    (stringify!($field), data_type, nullable, array)
                }),+];
                $crate::run::table::write_columns(path, columns)
            }

            /// Reads all rows; `hint` says how to make the file where it is missing.
            pub fn read(path: &std::path::Path, hint: &str) -> $crate::error::Result<Vec<Self>> {
                let mut rows = Vec::new();
                for batch in $crate::run::table::read_batches(path, hint)? {
                    $(let mut $field = $crate::run::table::read_column::<$type>(&batch, stringify!($field), path)?.into_iter();)+
                    for _ in 0..batch.num_rows() {
                        rows.push(Self { $($field: $field.next().expect("every column has as many cells as the batch has rows")),+ });
                    }
                }
                Ok(rows)
            }
        }
    };
}

/// Writes named columns as one parquet file, by rename.
pub fn write_columns(path: &Path, columns: Vec<(&str, DataType, bool, ArrayRef)>) -> Result<()> {
    let fields: Vec<Field> = columns.iter().map(|(name, kind, nullable, _)| Field::new(*name, kind.clone(), *nullable)).collect();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(schema.clone(), columns.into_iter().map(|column| column.3).collect())?;
    files::write_atomic(path, |file| {
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let mut writer = ArrowWriter::try_new(file, schema, Some(properties))?;
        writer.write(&batch).map_err(|error| parquet_write_error(path, error))?;
        writer.close().map_err(|error| parquet_write_error(path, error))?;
        Ok(())
    })
}

/// A full disk reaches us wrapped in a parquet error; the file name has to come back in.
fn parquet_write_error(path: &Path, error: parquet::errors::ParquetError) -> Error {
    match error {
        parquet::errors::ParquetError::External(inner) => match inner.downcast::<std::io::Error>() {
            Ok(source) => Error::Io { action: "write", path: path.into(), source: *source },
            Err(other) => Error::format("parquet file", path, other),
        },
        other => Error::format("parquet file", path, other),
    }
}

/// All record batches of a parquet file.
pub fn read_batches(path: &Path, hint: &str) -> Result<Vec<RecordBatch>> {
    let file = File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::Missing { what: "the table".into(), path: path.into(), hint: hint.into() },
        _ => Error::io("read", path)(error),
    })?;
    let damaged = |error: &dyn std::fmt::Display| Error::format("parquet file", path, error);
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|builder| builder.build()).map_err(|error| damaged(&error))?;
    reader.map(|batch| batch.map_err(|error| damaged(&error))).collect()
}

/// One column of a batch by name.
pub fn read_column<T: Cell>(batch: &RecordBatch, name: &str, path: &Path) -> Result<Vec<T>> {
    let Some(column) = batch.column_by_name(name) else {
        let found = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
        return Err(Error::Column { column: name.into(), path: path.into(), found });
    };
    T::cells(column).ok_or_else(|| {
        let reason = format!("column `{name}` has type {} or holds nulls, expected {}", column.data_type(), T::TYPE.0);
        Error::format("table of this version", path, reason)
    })
}

#[cfg(test)]
mod tests {
    use crate::run::results::ScoreRow;

    crate::table! {
        /// A table for the tests.
        pub struct Row {
            pub id: u64,
            pub text: Option<String>,
            pub value: f64,
        }
    }

    fn rows() -> Vec<Row> {
        vec![Row { id: u64::MAX, text: None, value: 0.5 }, Row { id: 1, text: Some("é".into()), value: -1.0 }]
    }

    #[test]
    fn rows_come_back_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        Row::write(&path, &rows()).unwrap();
        assert_eq!(Row::read(&path, "").unwrap(), rows());
    }

    #[test]
    fn a_truncated_file_and_a_missing_column_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        Row::write(&path, &rows()).unwrap();
        let error = ScoreRow::read(&path, "").unwrap_err().to_string();
        assert!(error.contains("`encoder` is missing"), "{error}");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let error = Row::read(&path, "").unwrap_err().to_string();
        assert!(error.contains("t.parquet") && error.contains("not a valid parquet file"), "{error}");
    }
}

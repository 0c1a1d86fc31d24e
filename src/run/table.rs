//! Plain rows ⇄ parquet: the format in which stages talk to each other. A table is a struct; its columns are its fields.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, ListArray, ListBuilder, RecordBatch, StringArray, StringBuilder, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use crate::error::{Error, Result};
use crate::run::files;

/// A type that can be one cell of a table.
pub trait Cell: Sized {
    /// Arrow type of the column and whether it may hold nulls.
    const TYPE: (DataType, bool);
    /// Arrow type of the column, where a constant cannot hold it.
    fn data_type() -> DataType {
        Self::TYPE.0
    }
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

/// A list of words; a missing list is an empty one.
impl Cell for Vec<String> {
    const TYPE: (DataType, bool) = (DataType::Null, false);

    fn data_type() -> DataType {
        DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)))
    }

    fn column<'a>(cells: impl Iterator<Item = &'a Self>) -> ArrayRef {
        let mut builder = ListBuilder::new(StringBuilder::new());
        for words in cells {
            builder.append_value(words.iter().map(|word| Some(word.as_str())));
        }
        Arc::new(builder.finish())
    }

    fn cells(column: &ArrayRef) -> Option<Vec<Self>> {
        let column = column.as_any().downcast_ref::<ListArray>()?;
        let words = |list: Option<ArrayRef>| -> Option<Self> {
            let Some(list) = list else { return Some(Self::new()) };
            list.as_string_opt::<i32>()?.iter().map(|word| word.map(str::to_owned)).collect()
        };
        column.iter().map(words).collect()
    }
}

/// Declares a table: a struct with documented fields of `u64`, `f64`, `bool`, `String`, an `Option` of these or a `Vec<String>`,
/// with `write(path, &rows)` (parquet, zstd, by rename) and `read(path, hint)` (columns by name; others are ignored). After
/// `unchecked`, only the parts of these are declared, `columns` and `extend`, for a table that adds checks of its own.
#[macro_export]
macro_rules! table {
    (unchecked $(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident : $type:ty),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type),+ }

        impl $name {
            /// The rows as columns.
            fn columns(rows: &[Self]) -> Vec<$crate::run::table::Column<'static>> {
                vec![$({
                    let (data_type, nullable) = (<$type as $crate::run::table::Cell>::data_type(), <$type as $crate::run::table::Cell>::TYPE.1);
                    let array = <$type as $crate::run::table::Cell>::column(rows.iter().map(|row| &row.$field));
                    (stringify!($field), data_type, nullable, array)
                }),+]
            }

            /// Appends the rows of a batch of the file `path`.
            fn extend(rows: &mut Vec<Self>, batch: &arrow::array::RecordBatch, path: &std::path::Path) -> $crate::error::Result<()> {
                $(let mut $field = $crate::run::table::read_column::<$type>(batch, stringify!($field), path)?.into_iter();)+
                for _ in 0..batch.num_rows() {
                    rows.push(Self { $($field: $field.next().expect("every column has as many cells as the batch has rows")),+ });
                }
                Ok(())
            }
        }
    };
    ($(#[$meta:meta])* pub struct $name:ident { $($fields:tt)+ }) => {
        $crate::table! { unchecked $(#[$meta])* pub struct $name { $($fields)+ } }

        impl $name {
            /// Writes the rows as parquet, by rename.
            pub fn write(path: &std::path::Path, rows: &[Self]) -> $crate::error::Result<()> {
                $crate::run::table::write_columns(path, Self::columns(rows), &[])
            }

            /// Reads all rows; `hint` says how to make the file where it is missing.
            pub fn read(path: &std::path::Path, hint: &str) -> $crate::error::Result<Vec<Self>> {
                let mut rows = Vec::new();
                for batch in $crate::run::table::read_batches(path, hint)?.1 {
                    Self::extend(&mut rows, &batch, path)?;
                }
                Ok(rows)
            }
        }
    };
}

/// Name, type, whether it may hold nulls, and cells of one column.
pub type Column<'a> = (&'a str, DataType, bool, ArrayRef);

/// Pairs of key and value in the footer of a parquet file.
pub type Metadata = BTreeMap<String, String>;

/// Rows of a row group: enough to compress well, few enough that their statistics let a reader skip most of a large table.
const ROW_GROUP: usize = 1 << 16;

/// Writes named columns as one parquet file with `metadata` in its footer: zstd, statistics per row group, by rename.
pub fn write_columns(path: &Path, columns: Vec<Column>, metadata: &[(&str, String)]) -> Result<()> {
    let fields: Vec<Field> = columns.iter().map(|(name, kind, nullable, _)| Field::new(*name, kind.clone(), *nullable)).collect();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(schema.clone(), columns.into_iter().map(|column| column.3).collect())?;
    let pairs = metadata.iter().map(|(key, value)| KeyValue::new((*key).to_owned(), value.clone())).collect::<Vec<_>>();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP))
        .set_key_value_metadata((!pairs.is_empty()).then_some(pairs))
        .build();
    files::write_atomic(path, |file| {
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

/// The pairs in the footer of a parquet file and all its record batches.
pub fn read_batches(path: &Path, hint: &str) -> Result<(Metadata, Vec<RecordBatch>)> {
    let file = File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::Missing { what: "the table".into(), path: path.into(), hint: hint.into() },
        _ => Error::io("read", path)(error),
    })?;
    let damaged = |error: &dyn std::fmt::Display| Error::format("parquet file", path, error);
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| damaged(&error))?;
    let pairs = builder.metadata().file_metadata().key_value_metadata();
    let metadata = pairs.into_iter().flatten().filter_map(|pair| Some((pair.key.clone(), pair.value.clone()?))).collect();
    let reader = builder.build().map_err(|error| damaged(&error))?;
    let batches = reader.map(|batch| batch.map_err(|error| damaged(&error))).collect::<Result<_>>()?;
    Ok((metadata, batches))
}

/// One column of a batch by name.
pub fn read_column<T: Cell>(batch: &RecordBatch, name: &str, path: &Path) -> Result<Vec<T>> {
    let Some(column) = batch.column_by_name(name) else {
        let found = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
        return Err(Error::Column { column: name.into(), path: path.into(), found });
    };
    T::cells(column).ok_or_else(|| {
        let reason = format!("column `{name}` has type {} or holds nulls, expected {}", column.data_type(), T::data_type());
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

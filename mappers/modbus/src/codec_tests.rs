//! Tests of the register codec: every width, every order, both directions.

use mapper_sdk::{DataType, Value};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn layout(data_type: DataType, visitor: serde_json::Value) -> Layout {
    try_layout(data_type, visitor).unwrap()
}

fn try_layout(data_type: DataType, mut visitor: serde_json::Value) -> Result<Layout, String> {
    let keys = visitor.as_object_mut().unwrap();
    keys.entry("register").or_insert(json!("HoldingRegister"));
    keys.entry("offset").or_insert(json!(0));
    Layout::resolve(&serde_json::from_value(visitor).unwrap(), data_type)
}

#[test]
fn every_width_is_big_endian_with_the_high_word_first() {
    let read = |data_type, kind: &str, words: &[u16]| {
        layout(data_type, json!({"dataType": kind})).decode(words).unwrap()
    };
    use DataType::{Double, Float, Int};
    assert_eq!(read(Int, "int16", &[0xFFFE]), Value::Int(-2));
    assert_eq!(read(Int, "uint16", &[0xFFFE]), Value::Int(65534));
    assert_eq!(read(Int, "int32", &[0xFFFF, 0xFFFE]), Value::Int(-2));
    assert_eq!(read(Int, "uint32", &[0xFFFF, 0xFFFE]), Value::Int(4_294_967_294));
    assert_eq!(read(Int, "int64", &[0x8000, 0, 0, 0]), Value::Int(i64::MIN));
    assert_eq!(read(Int, "uint64", &[0, 0, 1, 2]), Value::Int(65538));
    assert_eq!(read(Float, "float32", &[0x41B8, 0xCCCD]), Value::Float(23.1));
    assert_eq!(read(Double, "float64", &[0x4037, 0x1999, 0x9999, 0x999A]), Value::Double(23.1));
}

#[test]
fn every_swap_combination_is_what_it_says() {
    for (bytes, words, expected) in [
        (false, false, [0x0102, 0x0304]),
        (true, false, [0x0201, 0x0403]),
        (false, true, [0x0304, 0x0102]),
        (true, true, [0x0403, 0x0201]),
    ] {
        let visitor = json!({"dataType": "uint32", "isSwap": bytes, "isRegisterSwap": words});
        let layout = layout(DataType::Int, visitor);
        assert_eq!(layout.encode(&Value::Int(0x0102_0304)), Ok(expected.to_vec()));
        assert_eq!(layout.decode(&expected), Ok(Value::Int(0x0102_0304)));
    }
}

#[test]
fn the_published_samples_mean_what_their_authors_meant() {
    // FLOAT over one register with a scale of a tenth, as sent: dataType float, limit 1.
    let temperature =
        layout(DataType::Float, json!({"dataType": "float", "limit": 1, "scale": 0.1}));
    assert_eq!(temperature.decode(&[231]), Ok(Value::Double(23.1)));
    assert_eq!(temperature.decode(&[(-15_i16).cast_unsigned()]), Ok(Value::Double(-1.5)));
    assert_eq!(temperature.encode(&Value::Float(23.1)), Ok(vec![231]));
    // INT over one swapped register.
    let swapped = json!({"limit": 1, "scale": 1, "isSwap": true, "isRegisterSwap": true});
    assert_eq!(layout(DataType::Int, swapped).encode(&Value::Int(30)), Ok(vec![0x1E00]));
    // A coil as an INT.
    let switch = json!({"register": "CoilRegister", "dataType": "int", "limit": 1, "scale": 1});
    let switch = layout(DataType::Int, switch);
    assert_eq!(switch.encode_bits(&Value::Int(1)), Ok(vec![true]));
    assert_eq!(switch.decode_bits(&[true]).unwrap().into_type(DataType::Int), Ok(Value::Int(1)));
}

#[test]
fn the_type_of_the_model_stands_in_for_a_missing_one() {
    let count = |data_type, visitor| try_layout(data_type, visitor).map(|layout| layout.count);
    assert_eq!(count(DataType::Int, json!({})), Ok(1));
    assert_eq!(count(DataType::Int, json!({"limit": 2})), Ok(2));
    assert_eq!(count(DataType::Float, json!({})), Ok(2));
    assert_eq!(count(DataType::Double, json!({})), Ok(4));
    assert_eq!(count(DataType::Boolean, json!({})), Ok(1));
    assert_eq!(count(DataType::String, json!({"limit": 8})), Ok(8));
    let unsigned = layout(DataType::Int, json!({"signed": false}));
    assert_eq!(unsigned.decode(&[0xFFFF]), Ok(Value::Int(65535)));
}

#[test]
fn a_scale_leaves_no_binary_noise_behind() {
    let tenth = layout(DataType::Double, json!({"dataType": "int16", "scale": 0.1}));
    assert_eq!(tenth.decode(&[3]), Ok(Value::Double(0.3)));
    let ten = layout(DataType::Int, json!({"dataType": "int16", "scale": 10}));
    assert_eq!(ten.decode(&[42]), Ok(Value::Int(420)));
    assert_eq!(ten.encode(&Value::Int(424)), Ok(vec![42]));
    // An INT property with a fractional scale is rounded, not cut.
    let rounded = layout(DataType::Int, json!({"scale": 0.1}));
    assert_eq!(rounded.decode(&[231]), Ok(Value::Int(23)));
    assert_eq!(rounded.decode(&[235]), Ok(Value::Int(24)));
}

#[test]
fn texts_bytes_and_flags_fill_their_registers() {
    let text = layout(DataType::String, json!({"limit": 3}));
    assert_eq!(text.encode(&Value::String("abc".into())), Ok(vec![0x6162, 0x6300, 0]));
    assert_eq!(text.decode(&[0x6162, 0x6300, 0x7A7A]), Ok(Value::String("abc".into())));
    assert!(text.encode(&Value::String("seven b".into())).is_err());
    let bytes = layout(DataType::Bytes, json!({"limit": 2}));
    assert_eq!(bytes.decode(&[1, 0xFF00]), Ok(Value::Bytes(vec![0, 1, 255, 0])));
    assert!(bytes.encode(&Value::Bytes(vec![1])).is_err());
    let flag = layout(DataType::Boolean, json!({}));
    assert_eq!(flag.decode(&[0x0100]), Ok(Value::Boolean(true)));
    assert_eq!(flag.encode(&Value::Boolean(true)), Ok(vec![1]));
}

#[test]
fn coils_are_bits_from_the_lowest_up() {
    let coils =
        |data_type, limit| layout(data_type, json!({"register": "CoilRegister", "limit": limit}));
    let four = [true, false, true, true];
    assert_eq!(coils(DataType::Int, 4).decode_bits(&four), Ok(Value::Int(0b1101)));
    assert_eq!(coils(DataType::Int, 4).encode_bits(&Value::Int(0b1101)), Ok(four.to_vec()));
    assert!(coils(DataType::Int, 4).encode_bits(&Value::Int(16)).is_err());
    assert!(coils(DataType::Int, 4).encode_bits(&Value::Int(-1)).is_err());
    let ten = [true, false, false, false, false, false, false, true, true, false];
    let bytes = Value::Bytes(vec![0x81, 0x01]);
    assert_eq!(coils(DataType::Bytes, 10).decode_bits(&ten), Ok(bytes.clone()));
    assert_eq!(coils(DataType::Bytes, 10).encode_bits(&bytes), Ok(ten.to_vec()));
    assert!(coils(DataType::Bytes, 10).encode_bits(&Value::Bytes(vec![0, 0x04])).is_err());
    assert_eq!(coils(DataType::Boolean, 1).encode_bits(&Value::Boolean(true)), Ok(vec![true]));
    assert!(coils(DataType::Int, 1).encode_bits(&Value::Int(2)).is_err());
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let refused = |data_type, visitor, value: Value| {
        layout(data_type, visitor).encode(&value).unwrap_err().to_string()
    };
    let int16 = || json!({"dataType": "int16"});
    assert_eq!(
        refused(DataType::Int, int16(), Value::Int(32768)),
        "32768 does not fit a signed 16-bit register"
    );
    let scaled = json!({"dataType": "uint16", "scale": 0.1});
    assert_eq!(
        refused(DataType::Float, scaled, Value::Float(-0.1)),
        "-1 does not fit an unsigned 16-bit register"
    );
    let bounded = json!({"dataType": "int16", "scale": 0.1, "min": 1.0, "max": 100.0});
    assert!(refused(DataType::Float, bounded, Value::Float(100.1)).contains("min and max"));
    let float32 = json!({"dataType": "float32"});
    assert!(refused(DataType::Double, float32, Value::Double(1e300)).contains("32-bit float"));
    assert!(refused(DataType::String, int16(), Value::String("5".into())).contains("type string"));
    let tiny = json!({"dataType": "int64", "scale": 1e-300});
    assert!(refused(DataType::Double, tiny, Value::Double(1e10)).contains("does not fit"));
}

#[test]
fn a_number_too_large_for_an_int_is_an_error_and_not_a_wrong_number() {
    let uint64 = |data_type| layout(data_type, json!({"dataType": "uint64"}));
    let top = [0xFFFF; 4];
    assert!(matches!(uint64(DataType::Int).decode(&top), Err(CodecError::TooLarge(_))));
    assert_eq!(
        uint64(DataType::Double).decode(&top),
        Ok(Value::Double(18_446_744_073_709_551_615.0))
    );
    let text = Value::String("18446744073709551615".into());
    assert_eq!(uint64(DataType::String).decode(&top), Ok(text));
}

#[test]
fn an_answer_of_the_wrong_length_is_an_error() {
    let one = layout(DataType::Int, json!({}));
    assert_eq!(one.decode(&[]), Err(CodecError::Length { wanted: 1, got: 0 }));
    assert!(one.decode(&[1, 2]).is_err());
}

#[test]
fn configurations_that_cannot_work_are_refused_by_key() {
    for (data_type, visitor, key) in [
        (DataType::Int, json!({"limit": 3}), "limit: 3 registers hold no number"),
        (DataType::Int, json!({"limit": 0}), "limit"),
        (DataType::Int, json!({"dataType": "int32", "limit": 1}), "limit: 1 contradicts"),
        (DataType::Int, json!({"dataType": "int24"}), "dataType"),
        (DataType::Int, json!({"scale": 0}), "scale"),
        (DataType::String, json!({}), "limit: is required"),
        (DataType::Bytes, json!({"limit": 126}), "limit: 126 is not between 1 and 125"),
        (DataType::Int, json!({"offset": 65535, "limit": 2}), "limit: 2 from offset 65535"),
        (DataType::Boolean, json!({"register": "CoilRegister", "limit": 2}), "limit: must be 1"),
        (DataType::Int, json!({"register": "CoilRegister", "limit": 64}), "limit: 64 coils"),
        (DataType::Int, json!({"register": "CoilRegister", "dataType": "int32"}), "dataType"),
    ] {
        let reason = try_layout(data_type, visitor.clone()).unwrap_err();
        assert!(reason.starts_with(key), "{visitor}: {reason}");
    }
}

fn round_trip(data_type: DataType, visitor: serde_json::Value, value: Value) {
    let layout = layout(data_type, visitor.clone());
    let words = layout.encode(&value).unwrap();
    let back = layout.decode(&words).unwrap().into_type(data_type).unwrap();
    assert_eq!(back, value, "{visitor} as {words:04X?}");
}

proptest! {
    #[test]
    fn every_number_of_every_width_survives_every_order(int in any::<i64>(), float in any::<f32>(), double in any::<f64>(), bytes in any::<bool>(), words in any::<bool>()) {
        let visitor = |kind: &str| json!({"dataType": kind, "isSwap": bytes, "isRegisterSwap": words});
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "any number of that width will do")]
        for (kind, int) in [
            ("int16", i64::from(int as i16)),
            ("uint16", i64::from(int as u16)),
            ("int32", i64::from(int as i32)),
            ("uint32", i64::from(int as u32)),
            ("int64", int),
            ("uint64", int & i64::MAX),
        ] {
            round_trip(DataType::Int, visitor(kind), Value::Int(int));
        }
        if float.is_finite() {
            round_trip(DataType::Float, visitor("float32"), Value::Float(float));
        }
        if double.is_finite() {
            round_trip(DataType::Double, visitor("float64"), Value::Double(double));
        }
    }

    #[test]
    fn texts_and_bytes_survive_every_order(text in "[a-zäöü]{0,10}", bytes in proptest::collection::vec(any::<u8>(), 8), swap in any::<bool>(), words in any::<bool>()) {
        let visitor = |limit| json!({"limit": limit, "isSwap": swap, "isRegisterSwap": words});
        round_trip(DataType::String, visitor(10), Value::String(text));
        round_trip(DataType::Bytes, visitor(4), Value::Bytes(bytes));
    }

    #[test]
    fn scaled_values_come_back_to_within_half_a_step(tenths in -32768_i64..32768, scale in prop_oneof![Just(0.1), Just(0.01), Just(0.5), Just(10.0), Just(0.3), Just(-0.1)]) {
        let layout = layout(DataType::Double, json!({"dataType": "int16", "scale": scale}));
        #[expect(clippy::cast_precision_loss, reason = "16 bits")]
        let physical = tenths as f64 * scale;
        let words = layout.encode(&Value::Double(physical)).unwrap();
        let Value::Double(back) = layout.decode(&words).unwrap() else { panic!() };
        prop_assert!((back - physical).abs() <= (scale / 2.0_f64).abs() + 1e-9);
        prop_assert_eq!(layout.encode(&Value::Double(back)).unwrap(), words);
    }

    #[test]
    fn no_registers_and_no_value_panic(words in proptest::collection::vec(any::<u16>(), 0..6), limit in 0_u16..130, kind in "(u?int(16|32|64)?|float(32|64)?|double|string|bytes|boolean)?", scale in any::<f64>(), int in any::<i64>(), double in any::<f64>(), text in ".{0,20}") {
        for data_type in [DataType::Int, DataType::Float, DataType::Double, DataType::String, DataType::Boolean, DataType::Bytes] {
            let scale = if scale.is_finite() { scale } else { 1.0 };
            let Ok(layout) = try_layout(data_type, json!({"limit": limit, "dataType": kind, "scale": scale})) else { continue };
            let _ = layout.decode(&words);
            for value in [Value::Int(int), Value::Double(double), Value::String(text.clone()), Value::Boolean(true)] {
                let _ = layout.encode(&value);
                let _ = layout.encode_bits(&value);
            }
        }
    }
}

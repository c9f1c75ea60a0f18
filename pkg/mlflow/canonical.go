package mlflow

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
)

// Message is a pointer to one of this package's request types.
type Message = message

// AppendCanonical appends the canonical encoding of a request to b: a JSON object
// of what the request says, under the names that its fields have on the wire, in
// the order of the names. A field that is absent, or as good as absent, is left
// out. The encoding stays as it is when Go names change and when requests get more
// fields: digests of it are in logs.
func AppendCanonical(b []byte, m Message) []byte {
	fields := m.fields()
	slices.SortFunc(fields, func(f, g field) int { return cmp.Compare(f.name, g.name) })
	b = append(b, '{')
	first := true
	for i := range fields {
		value := fields[i].appendCanonical(nil)
		if value == nil {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(append(appendQuoted(b, fields[i].name), ':'), value...)
	}
	return append(b, '}')
}

// appendCanonical appends the value of the field, nothing when it is absent.
func (f *field) appendCanonical(b []byte) []byte {
	switch dst := f.dst.(type) {
	case *string:
		return appendText(b, *dst)
	case **string:
		if *dst != nil {
			return appendQuoted(b, **dst)
		}
	case *int64:
		if *dst != f.def {
			return strconv.AppendInt(b, *dst, 10)
		}
	case **int64:
		if *dst != nil {
			return strconv.AppendInt(b, **dst, 10)
		}
	case *float64:
		return appendNumber(b, *dst)
	case *bool:
		if *dst {
			return strconv.AppendBool(b, true)
		}
	case **bool:
		if *dst != nil {
			return strconv.AppendBool(b, **dst)
		}
	case **RunStatus:
		if *dst != nil {
			return appendQuoted(b, string(**dst))
		}
	case *ViewType:
		if *dst != ViewActiveOnly {
			return appendText(b, string(*dst))
		}
	case *LoggedModelStatus:
		return appendText(b, string(*dst))
	case *[]string:
		return appendCanonicalList(b, *dst, func(b []byte, s *string) []byte { return appendQuoted(b, *s) })
	case *[]Tag:
		return appendCanonicalList(b, *dst, func(b []byte, t *Tag) []byte { return appendPair(b, t.Key, t.Value) })
	case *[]Param:
		return appendCanonicalList(b, *dst, func(b []byte, p *Param) []byte { return appendPair(b, p.Key, p.Value) })
	case *[]Metric:
		return appendCanonicalList(b, *dst, appendMetric)
	case nested:
		return dst.appendCanonical(b)
	default:
		panic(fmt.Sprintf("mlflow: field %s has an unknown type %T", f.name, f.dst))
	}
	return b
}

func (o object[T, P]) appendCanonical(b []byte) []byte { return AppendCanonical(b, P(o.dst)) }

func (o optionalObject[T, P]) appendCanonical(b []byte) []byte {
	if *o.dst == nil {
		return b
	}
	return AppendCanonical(b, P(*o.dst))
}

func (o objects[T, P]) appendCanonical(b []byte) []byte {
	return appendCanonicalList(b, *o.dst, func(b []byte, v *T) []byte { return AppendCanonical(b, P(v)) })
}

// appendCanonicalList appends nothing for an empty list.
func appendCanonicalList[T any](b []byte, list []T, element func([]byte, *T) []byte) []byte {
	for i := range list {
		sep := byte(',')
		if i == 0 {
			sep = '['
		}
		b = element(append(b, sep), &list[i])
	}
	if len(list) > 0 {
		b = append(b, ']')
	}
	return b
}

// appendText appends nothing for "".
func appendText(b []byte, s string) []byte {
	if s == "" {
		return b
	}
	return appendQuoted(b, s)
}

func appendPair(b []byte, key, value string) []byte {
	b = append(appendQuoted(append(b, `{"key":`...), key), `,"value":`...)
	return append(appendQuoted(b, value), '}')
}

func appendMetric(b []byte, m *Metric) []byte {
	var link MetricLink
	if m.Link != nil {
		link = *m.Link
	}
	member := func(name, value string) {
		if value != "" {
			b = append(appendQuoted(append(appendQuoted(b, name), ':'), value), ',')
		}
	}
	b = append(b, '{')
	member("dataset_digest", link.DatasetDigest)
	member("dataset_name", link.DatasetName)
	member("key", m.Key)
	member("model_id", link.ModelID)
	b = strconv.AppendInt(append(b, `"step":`...), m.Step, 10)
	b = strconv.AppendInt(append(b, `,"timestamp":`...), m.Timestamp, 10)
	return append(appendNumber(append(b, `,"value":`...), m.Value), '}')
}

// appendNumber appends a double so that it reads as the same one. What is not
// finite is a string, as on the wire.
func appendNumber(b []byte, f float64) []byte {
	if t := float(f); t.Kind() == '"' {
		return appendQuoted(b, t.String())
	}
	return strconv.AppendFloat(b, f, 'g', -1, 64)
}

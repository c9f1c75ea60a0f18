package mlflow

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/runledger/runledger/pkg/apierr"
)

// field binds a field of a request on the wire to where its value goes.
type field struct {
	name     string
	path     string // of the object that has the field, with a dot; "" in the request itself
	alias    string // an older name of a string field; the value under name wins
	required bool   // must be there, and neither null nor ""
	keyed    bool   // elements must have what MLflow's log-batch asks of them
	def, max int64  // of an *int64: the value when absent; the bound, if not zero
	dst      any

	present    bool
	hasAlias   bool
	aliasValue string
	spelled    spelling // all the ways in which the request does
	err        *apierr.Error
}

// spelling is how a request spells the name of a field.
type spelling uint8

const (
	snake spelling = 1 << iota // as it is
	camel                      // as protobuf's JSON does by default
	old                        // its alias
)

// lookup finds the field called name, and how name spells it.
func lookup(fields []field, name []byte) (*field, spelling) {
	for i := range fields {
		f := &fields[i]
		if string(name) == f.name {
			return f, snake
		}
		if f.alias != "" && string(name) == f.alias {
			return f, old
		}
	}
	if !bytes.ContainsFunc(name, isUpper) {
		return nil, 0
	}
	for i := range fields {
		if f := &fields[i]; string(name) == camelCase(f.name) {
			return f, camel
		}
	}
	return nil, 0
}

func isUpper(r rune) bool { return 'A' <= r && r <= 'Z' }

// member reads the value of a member of the request's object into its field.
func (d *decoder) member(fields []field, name []byte) error {
	f, spelled := lookup(fields, name)
	if f == nil {
		return d.SkipValue()
	}
	f.spelled |= spelled
	switch {
	case spelled == old:
		return f.decodeAlias(d)
	case spelled == camel && f.required:
		return d.SkipValue() // MLflow looks for what it requires under one name
	default:
		return f.decode(d)
	}
}

// reset makes the field absent.
func (f *field) reset() {
	f.present, f.hasAlias, f.aliasValue, f.spelled, f.err = false, false, "", 0, nil
	f.clear()
}

func (f *field) clear() {
	switch dst := f.dst.(type) {
	case *string:
		*dst = ""
	case **string:
		*dst = nil
	case *int64:
		*dst = f.def
	case **int64:
		*dst = nil
	case *float64:
		*dst = 0
	case *bool:
		*dst = false
	case **RunStatus:
		*dst = nil
	case *ViewType:
		*dst = ViewActiveOnly
	case *[]string:
		*dst = nil
	case *[]Tag:
		*dst = nil
	case *[]Param:
		*dst = nil
	case *[]Metric:
		*dst = nil
	case **bool:
		*dst = nil
	case *LoggedModelStatus:
		*dst = ""
	case nested:
		dst.clear()
	default:
		panic(fmt.Sprintf("mlflow: field %s has an unknown type %T", f.name, f.dst))
	}
}

// settle completes the field once the request has been read.
func (f *field) settle() error {
	if f.hasAlias && !f.present {
		if s, ok := f.dst.(*string); ok && f.aliasValue != "" {
			*s, f.present = f.aliasValue, true
		}
	}
	if f.spelled&(snake|camel) == snake|camel {
		return spelledTwice(f.name)
	}
	if f.required && !f.present {
		return missingField(f.path + f.name)
	}
	if f.err != nil {
		return f.err
	}
	return nil
}

// decode reads the next value into the field. It leaves what is wrong with the
// value in f.err, and returns an error only when the text is not JSON. Of
// several values of the same name the last counts.
func (f *field) decode(d *decoder) error {
	if f.present || f.err != nil {
		f.clear()
	}
	f.present, f.err = false, nil
	if d.PeekKind() == jsontext.KindNull {
		return d.SkipValue()
	}
	depth := d.StackDepth()
	present, err := f.value(d)
	if e, ok := errors.AsType[*apierr.Error](err); ok {
		f.clear()
		f.err, f.present = e, true
		return d.leave(depth)
	}
	f.present = present
	return err
}

func (f *field) decodeAlias(d *decoder) error {
	f.hasAlias, f.aliasValue = false, ""
	if d.PeekKind() != jsontext.KindString {
		return d.SkipValue()
	}
	raw, err := d.ReadValue()
	if err != nil {
		return err
	}
	f.aliasValue, f.hasAlias = unquote(raw), true
	return nil
}

// value reads the next value, and reports whether it makes the field present: a
// required field that is the empty string is missing, whatever its type.
func (f *field) value(d *decoder) (present bool, _ error) {
	name := f.path + f.name
	switch dst := f.dst.(type) {
	case *[]string:
		return true, decodeArray(d, name, dst, (*decoder).stringElement)
	case *[]Tag:
		return true, decodeArray(d, name, dst, keyValueElement[Tag](f.keyed))
	case *[]Param:
		return true, decodeArray(d, name, dst, keyValueElement[Param](f.keyed))
	case *[]Metric:
		return true, decodeArray(d, name, dst, (*decoder).metricElement)
	case nested:
		return true, dst.read(d, name)
	}
	raw, err := d.ReadValue()
	if err != nil {
		return false, err
	}
	if f.required && string(raw) == `""` {
		return false, nil
	}
	ok := true
	switch dst := f.dst.(type) {
	case *string:
		*dst, ok = parseString(raw)
	case **string:
		*dst, ok = pointer(parseString(raw))
	case *int64:
		*dst, ok = parseInt(raw)
		ok = ok && (f.max == 0 || *dst <= f.max)
	case **int64:
		*dst, ok = pointer(parseInt(raw))
	case *float64:
		*dst, ok = parseFloat(raw)
	case *bool:
		*dst, ok = parseBool(raw)
	case **bool:
		*dst, ok = pointer(parseBool(raw))
	case *LoggedModelStatus:
		*dst, ok = parseEnum(raw, loggedModelStatuses[:])
	case **RunStatus:
		*dst, ok = pointer(parseEnum(raw, runStatuses[:]))
	case *ViewType:
		*dst, ok = parseEnum(raw, viewTypes[:])
	}
	if !ok {
		return true, wrongType(name, raw)
	}
	return true, nil
}

func pointer[T any](v T, ok bool) (*T, bool) {
	if !ok {
		return nil, false
	}
	return &v, true
}

// decoder reads JSON tokens, and shares the text of equal keys.
type decoder struct {
	*jsontext.Decoder
	keys map[string]string
}

func newDecoder(body []byte) *decoder {
	return &decoder{Decoder: jsontext.NewDecoder(newBuffer(body), jsontext.AllowDuplicateNames(true))}
}

// object reads the object that follows, and calls member with the name of each
// member, to read its value. The name is valid until then.
func (d *decoder) object(member func(name []byte) error) error {
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for d.PeekKind() == jsontext.KindString {
		raw, err := d.ReadValue()
		if err != nil {
			return err
		}
		if err := member(unquoteBytes(raw)); err != nil {
			return err
		}
	}
	_, err := d.ReadToken()
	return err
}

// drain reads the one value that is left.
func (d *decoder) drain() error {
	if err := d.SkipValue(); err != nil {
		return err
	}
	return d.atEnd()
}

// atEnd returns an error if anything but white space is left.
func (d *decoder) atEnd() error {
	_, err := d.ReadToken()
	if err == io.EOF {
		return nil
	}
	if err == nil {
		return &jsontext.SyntacticError{ByteOffset: d.InputOffset(), Err: errors.New("more than one value")}
	}
	return err
}

// leave reads on until it is out of what was begun below depth.
func (d *decoder) leave(depth int) error {
	for d.StackDepth() > depth {
		if _, err := d.ReadToken(); err != nil {
			return err
		}
	}
	return nil
}

// intern returns the text of a quoted JSON string, the same string for the
// same text.
func (d *decoder) intern(raw jsontext.Value) string {
	b := unquoteBytes(raw)
	if s, ok := d.keys[string(b)]; ok {
		return s
	}
	if d.keys == nil {
		d.keys = make(map[string]string)
	}
	s := string(b)
	d.keys[s] = s
	return s
}

// decodeArray reads the array that follows into dst. The errors of its elements
// are *apierr.Error and name the element.
func decodeArray[T any](d *decoder, name string, dst *[]T, element func(*decoder, *T) error) error {
	if d.PeekKind() != jsontext.KindBeginArray {
		raw, err := d.ReadValue()
		if err != nil {
			return err
		}
		return wrongType(name, raw)
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for d.PeekKind() != jsontext.KindEndArray {
		var v T
		if err := element(d, &v); err != nil {
			if at, ok := err.(*elementError); ok {
				return at.in(name + "[" + strconv.Itoa(len(*dst)) + "]")
			}
			return err
		}
		*dst = append(*dst, v)
	}
	_, err := d.ReadToken()
	return err
}

// nested is what a field of objects is read into.
type nested interface {
	clear()
	read(d *decoder, path string) error
	appendCanonical(b []byte) []byte
}

// object is one message.
type object[T any, P interface {
	*T
	message
}] struct{ dst *T }

func objectOf[T any, P interface {
	*T
	message
}](dst P) nested {
	return object[T, P]{dst}
}

func (o object[T, P]) clear() { *o.dst = *new(T) }

func (o object[T, P]) read(d *decoder, path string) error {
	if d.PeekKind() != jsontext.KindBeginObject {
		raw, err := d.ReadValue()
		if err != nil {
			return err
		}
		return wrongType(path, raw)
	}
	fields := P(o.dst).fields()
	for i := range fields {
		fields[i].reset()
		fields[i].path = path + "."
	}
	err := d.object(func(name []byte) error {
		return d.member(fields, name)
	})
	if err != nil {
		return err
	}
	return settle(fields)
}

// optionalObject is one message that may be absent, which is nil.
type optionalObject[T any, P interface {
	*T
	message
}] struct{ dst **T }

func optional[T any, P interface {
	*T
	message
}](dst **T) nested {
	return optionalObject[T, P]{dst}
}

func (o optionalObject[T, P]) clear() { *o.dst = nil }

func (o optionalObject[T, P]) read(d *decoder, path string) error {
	*o.dst = new(T)
	return object[T, P]{*o.dst}.read(d, path)
}

// objects is a list of messages.
type objects[T any, P interface {
	*T
	message
}] struct{ dst *[]T }

func listOf[T any, P interface {
	*T
	message
}](dst *[]T) nested {
	return objects[T, P]{dst}
}

func (o objects[T, P]) clear() { *o.dst = nil }

func (o objects[T, P]) read(d *decoder, path string) error {
	return decodeArray(d, path, o.dst, func(d *decoder, v *T) error {
		return object[T, P]{v}.read(d, path+"["+strconv.Itoa(len(*o.dst))+"]")
	})
}

// elementError is what is wrong with an element of an array. A nil value is one
// that is missing.
type elementError struct {
	member string // of the element, or "" for the element itself
	value  jsontext.Value
}

func (e *elementError) Error() string { return "element error" }

func (e *elementError) in(path string) *apierr.Error {
	if e.member != "" {
		path += "." + e.member
	}
	if e.value == nil {
		return missingField(path)
	}
	return wrongType(path, e.value)
}

// elementObject reads an element that is an object.
func (d *decoder) elementObject(member func(name []byte) error) error {
	if d.PeekKind() == jsontext.KindBeginObject {
		return d.object(member)
	}
	raw, err := d.ReadValue()
	if err != nil {
		return err
	}
	return &elementError{value: raw.Clone()}
}

func (d *decoder) stringElement(dst *string) error {
	raw, err := d.ReadValue()
	if err != nil {
		return err
	}
	var ok bool
	if *dst, ok = parseString(raw); !ok {
		return &elementError{value: raw.Clone()}
	}
	return nil
}

// memberErrors is what went wrong with the members of an element so far, by place. A
// later value of a member takes the place of an earlier one, wrong or not.
type memberErrors [len(metricMembers)]*elementError

func (m *memberErrors) first() error {
	for _, e := range m {
		if e != nil {
			return e
		}
	}
	return nil
}

// keyValueElement reads a tag or a parameter.
func keyValueElement[T Tag | Param](keyRequired bool) func(*decoder, *T) error {
	return func(d *decoder, dst *T) error {
		var kv Tag
		var wrong memberErrors
		err := d.elementObject(func(name []byte) error {
			to, member, i := &kv.Key, "key", 0
			switch string(name) {
			case "key":
			case "value":
				to, member, i = &kv.Value, "value", 1
			default:
				return d.SkipValue()
			}
			raw, err := d.ReadValue()
			if err != nil {
				return err
			}
			var ok bool
			wrong[i] = nil
			if *to, ok = parseString(raw); !ok && raw.Kind() != jsontext.KindNull {
				wrong[i] = &elementError{member, raw.Clone()}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := wrong.first(); err != nil {
			return err
		}
		if keyRequired && kv.Key == "" {
			return &elementError{member: "key"}
		}
		*dst = T(kv)
		return nil
	}
}

// metricElement reads a metric point. This is the path that a million points a
// second take.
func (d *decoder) metricElement(m *Metric) error {
	var hasValue, hasTimestamp bool
	var link MetricLink
	var wrong memberErrors
	err := d.elementObject(func(name []byte) error {
		var i int // name is not valid any more once its value is read
		switch string(name) {
		case "key":
			i = 0
		case "value":
			i = 1
		case "timestamp":
			i = 2
		case "step":
			i = 3
		case "model_id":
			i = 4
		case "dataset_name":
			i = 5
		case "dataset_digest":
			i = 6
		default:
			return d.SkipValue()
		}
		raw, err := d.ReadValue()
		if err != nil {
			return err
		}
		null := raw.Kind() == jsontext.KindNull
		// MLflow takes the empty string for no value where it asks for one.
		missing := null || i < 3 && string(raw) == `""`
		ok := missing
		switch i {
		case 0:
			m.Key = ""
			if raw.Kind() == jsontext.KindString {
				m.Key, ok = d.intern(raw), true
			}
		case 1:
			m.Value, hasValue = 0, !missing
			if !missing {
				m.Value, ok = parseFloat(raw)
			}
		case 2:
			m.Timestamp, hasTimestamp = 0, !missing
			if !missing {
				m.Timestamp, ok = parseInt(raw)
			}
		case 3:
			m.Step = 0
			if !missing {
				m.Step, ok = parseInt(raw)
			}
		default:
			to := [...]*string{&link.ModelID, &link.DatasetName, &link.DatasetDigest}[i-4]
			*to = ""
			if raw.Kind() == jsontext.KindString {
				*to, ok = d.intern(raw), true
			}
		}
		wrong[i] = nil
		if !ok {
			wrong[i] = &elementError{metricMembers[i], raw.Clone()}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := wrong.first(); err != nil {
		return err
	}
	switch {
	case m.Key == "":
		return &elementError{member: "key"}
	case !hasValue:
		return &elementError{member: "value"}
	case !hasTimestamp:
		return &elementError{member: "timestamp"}
	}
	m.Link = link.orNil()
	return nil
}

var metricMembers = [...]string{"key", "value", "timestamp", "step", "model_id", "dataset_name", "dataset_digest"}

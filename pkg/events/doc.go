// Package events is the contract of the log: what an event is, how it is
// encoded, on which subject and stream it is published.
//
// An event is a protobuf message (events.proto) with CloudEvents attributes in
// the message headers, a schema version and a checksum of the payload. Events
// are never rewritten: a reader of a newer schema upcasts older ones.
package events

//go:generate make -C ../.. generate

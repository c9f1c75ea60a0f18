package chconn

import (
	"errors"
	"slices"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"
)

// damaged are the codes of the errors that reading has of a part whose files are not as
// they were written.
var damaged = []proto.Error{
	proto.ErrChecksumDoesntMatch,
	proto.ErrCannotDecompress,
	proto.ErrCorruptedData,
	proto.ErrCannotReadAllData,
	proto.ErrAttemptToReadAfterEOF,
	proto.ErrSizesOfColumnsDoesntMatch,
	proto.ErrTooLargeSizeCompressed,
	proto.ErrCannotReadFromFileDescriptor,
	proto.ErrFileDoesntExist,
	proto.ErrNoFileInDataPart,
	proto.ErrUnexpectedFileInDataPart,
	proto.ErrBadSizeOfFileInDataPart,
	proto.ErrUnknownCodec,
	proto.ErrIncorrectIndex,
}

// IsDamage tells whether ClickHouse could not do a statement because a part of a table
// seems damaged. A check of the table tells whether it is.
func IsDamage(err error) bool {
	if exception, ok := errors.AsType[*clickhouse.Exception](err); ok {
		return slices.Contains(damaged, proto.Error(exception.Code))
	}
	return ch.IsErr(err, damaged...)
}

/* Plain heads, read in one pass: the compiled form of balancer/http1/plain_heads.py.
 *
 * That module is the specification: for any bytes at all, the functions here return what its twins return, and tests
 * hold them to it. A head that is not plain gives None. For readers of Python, what differs from there:
 *
 *   - Bytes are walked with pointers, and no length is checked on the way: the head is known to end with CR LF CR LF
 *     before a loop starts, and every loop stops at a CR, so none can leave the head. `last` is where those four begin.
 *   - Nothing is copied but the results, and a name of at most LONGEST bytes, folded.
 *   - A function that returns NULL to Python has raised. The module has no state: any number of threads and
 *     interpreters may use it at once.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#define METHOD_BYTES 20
#define REQUEST_ID_BYTES 128
#define LENGTH_DIGITS 18    /* 10**18 - 1 fits into 64 bits */
#define RESPONSE_FIELDS 200 /* as in plain_heads.py */
#define LONGEST 17          /* bytes of the longest name that classify() knows */

typedef const unsigned char *Bytes;

/* What a byte of a field name counts as: lower case, "_" as "-". 0: no byte of a token (RFC 9110 5.6.2). */
#define SAME(byte) [byte] = byte
#define LETTER(upper, lower) [upper] = lower, [lower] = lower
static const char NAME_BYTE[256] = {
    SAME('!'), SAME('#'), SAME('$'), SAME('%'), SAME('&'), SAME('\''), SAME('*'), SAME('+'), SAME('-'), SAME('.'),
    SAME('^'), ['_'] = '-', SAME('`'), SAME('|'), SAME('~'),
    SAME('0'), SAME('1'), SAME('2'), SAME('3'), SAME('4'), SAME('5'), SAME('6'), SAME('7'), SAME('8'), SAME('9'),
    LETTER('A', 'a'), LETTER('B', 'b'), LETTER('C', 'c'), LETTER('D', 'd'), LETTER('E', 'e'), LETTER('F', 'f'),
    LETTER('G', 'g'), LETTER('H', 'h'), LETTER('I', 'i'), LETTER('J', 'j'), LETTER('K', 'k'), LETTER('L', 'l'),
    LETTER('M', 'm'), LETTER('N', 'n'), LETTER('O', 'o'), LETTER('P', 'p'), LETTER('Q', 'q'), LETTER('R', 'r'),
    LETTER('S', 's'), LETTER('T', 't'), LETTER('U', 'u'), LETTER('V', 'v'), LETTER('W', 'w'), LETTER('X', 'x'),
    LETTER('Y', 'y'), LETTER('Z', 'z'),
};

enum kind {
    ORDINARY, /* travels on as it came */
    HOST,
    REQUEST_ID,
    CONNECTION,
    LENGTH,
    DATE,
    NOT_IN_REQUESTS, /* a request with it is not plain */
    NOT_PLAIN,       /* nor is a response */
};

/* What a field is to us, by its folded name. */
static enum kind classify(const char *name, size_t length) {
#define IS(text) (memcmp(name, text, sizeof(text) - 1) == 0)
    switch (length) {
    case 2: return IS("te") ? NOT_PLAIN : ORDINARY;
    case 3: return IS("via") ? NOT_IN_REQUESTS : ORDINARY;
    case 4: return IS("host") ? HOST : IS("date") ? DATE : ORDINARY;
    case 6: return IS("expect") ? NOT_IN_REQUESTS : ORDINARY;
    case 7: return IS("upgrade") ? NOT_PLAIN : ORDINARY;
    case 9: return IS("forwarded") || IS("x-real-ip") ? NOT_IN_REQUESTS : ORDINARY;
    case 10: return IS("connection") ? CONNECTION : IS("keep-alive") ? NOT_PLAIN : ORDINARY;
    case 12: return IS("x-request-id") ? REQUEST_ID : IS("max-forwards") ? NOT_IN_REQUESTS : ORDINARY;
    case 14: return IS("content-length") ? LENGTH : ORDINARY;
    case 15: return IS("x-forwarded-for") ? NOT_IN_REQUESTS : ORDINARY;
    case 16: return IS("x-forwarded-host") || IS("x-forwarded-port") ? NOT_IN_REQUESTS
                    : IS("proxy-connection") ? NOT_PLAIN : ORDINARY;
    case 17: return IS("x-forwarded-proto") ? NOT_IN_REQUESTS : IS("transfer-encoding") ? NOT_PLAIN : ORDINARY;
    default: return ORDINARY;
    }
#undef IS
}

/* One field line. */
typedef struct {
    enum kind kind;
    int underscored; /* the name has a "_" */
    Bytes start;     /* the CRLF in front of the line */
    Bytes colon;
    Bytes value;     /* without the whitespace around it */
    Bytes value_end;
    Bytes end;       /* the CRLF behind the line */
} Line;

/* Reads the line behind the CRLF at `start`, which lies before `last`. Returns 0 if it is no field line. */
static int read_line(Bytes start, Bytes last, Line *line) {
    char name[LONGEST], folded;
    size_t length = 0;
    Bytes at = start + 2;

    line->underscored = 0;
    for (; (folded = NAME_BYTE[*at]) != 0; at++, length++) {
        if (length < LONGEST)
            name[length] = folded;
        line->underscored |= *at == '_';
    }
    if (length == 0 || *at != ':')
        return 0;
    line->kind = classify(name, length);
    line->start = start;
    line->colon = at++;
    line->end = memchr(at, '\r', (size_t)(last - at) + 1); /* there is one at `last` */
    if (line->end[1] != '\n' || memchr(at, '\n', (size_t)(line->end - at)) != NULL)
        return 0;
    while (*at == ' ' || *at == '\t')
        at++;
    line->value = at;
    for (at = line->end; at > line->value && (at[-1] == ' ' || at[-1] == '\t'); at--)
        ;
    line->value_end = at;
    return 1;
}

static int is_keep_alive(const Line *line) {
    return line->value_end - line->value == 10 && PyOS_strnicmp((const char *)line->value, "keep-alive", 10) == 0;
}

static int is_request_id(const Line *line) {
    Py_ssize_t length = line->value_end - line->value;

    for (Bytes at = line->value; at < line->value_end; at++) {
        unsigned char c = *at; /* "-" to ":" are the hyphen, the dot, the slash, the digits and the colon */
        if (!((c >= '-' && c <= ':') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' || c == '+'
              || c == '='))
            return 0;
    }
    return length >= 1 && length <= REQUEST_ID_BYTES;
}

/* The number in a Content-Length line that we would write the same; -1 for any other line. */
static long long canonical_length(const Line *line) {
    long long number = 0;
    Py_ssize_t digits = line->value_end - line->value;

    if (line->value != line->colon + 2 || line->colon[1] != ' ' || line->value_end != line->end)
        return -1;
    if (digits < 1 || digits > LENGTH_DIGITS || (digits > 1 && *line->value == '0'))
        return -1;
    for (Bytes at = line->value; at < line->value_end; at++) {
        if (*at < '0' || *at > '9')
            return -1;
        number = number * 10 + (*at - '0');
    }
    return number;
}

/* What the field lines of a head say; a line whose `start` is NULL is not there. */
typedef struct {
    Line host, request_id, connection;
    long long length; /* -1: no Content-Length */
    int has_date;
} Fields;

/* Reads the lines from the CRLF at `start` to the one at `last`. Returns 0 if they are not those of a plain head. */
static int read_fields(Bytes start, Bytes last, Py_ssize_t most, int is_request, Fields *fields) {
    Line line;
    Py_ssize_t count = 0;

    *fields = (Fields){.length = -1};
    for (Bytes at = start; at != last; at = line.end) {
        if (count++ >= most || !read_line(at, last, &line))
            return 0;
        if (line.underscored && line.kind != ORDINARY && line.kind != DATE && is_request)
            return 0; /* backends may read it as one of our names */
        if (line.kind == ORDINARY || line.underscored)
            continue;
        if (line.kind == CONNECTION) {
            if (fields->connection.start != NULL || !is_keep_alive(&line))
                return 0;
            fields->connection = line;
        } else if (line.kind == LENGTH) {
            if (fields->length >= 0 || (fields->length = canonical_length(&line)) < 0)
                return 0;
        } else if (line.kind == DATE) {
            fields->has_date = 1;
        } else if (line.kind == NOT_PLAIN) {
            return 0;
        } else if (!is_request) {
            continue;
        } else if (line.kind == HOST) {
            if (fields->host.start != NULL || line.value == line.value_end)
                return 0;
            fields->host = line;
        } else if (line.kind == REQUEST_ID) {
            if (fields->request_id.start != NULL || !is_request_id(&line))
                return 0;
            fields->request_id = line;
        } else {
            return 0;
        }
    }
    return 1;
}

/* Where the CR LF CR LF at the end of the head begins; NULL if there is none, or a NUL anywhere. */
static Bytes find_last(Bytes head, Py_ssize_t size) {
    if (size < 4 || memcmp(head + size - 4, "\r\n\r\n", 4) != 0 || memchr(head, 0, (size_t)size) != NULL)
        return NULL;
    return head + size - 4;
}

/* [(start, end)] of the line as offsets in the head; [] if it is not there. */
static PyObject *cuts_of(Bytes head, const Line *line) {
    if (line->start == NULL)
        return PyList_New(0);
    return Py_BuildValue("[(nn)]", (Py_ssize_t)(line->start - head), (Py_ssize_t)(line->end - head));
}

static PyObject *bytes_between(Bytes start, Bytes end) {
    return PyBytes_FromStringAndSize((const char *)start, end - start);
}

/* A tuple that takes over the items. One that is NULL, because making it raised, gives NULL. */
static PyObject *tuple_of(PyObject *const *items, Py_ssize_t count) {
    PyObject *tuple = PyTuple_New(count);
    int failed = tuple == NULL;

    for (Py_ssize_t i = 0; i < count; i++) {
        failed |= items[i] == NULL;
        if (tuple == NULL)
            Py_XDECREF(items[i]);
        else
            PyTuple_SET_ITEM(tuple, i, items[i]);
    }
    if (failed)
        Py_CLEAR(tuple);
    return tuple;
}

static int is_other_method(Bytes method, Py_ssize_t length) {
#define IS(text) (length == sizeof(text) - 1 && memcmp(method, text, sizeof(text) - 1) == 0)
    return IS("CONNECT") || IS("TRACE") || IS("OPTIONS") || IS("PRI");
#undef IS
}

static int is_hex(unsigned char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F') || (c >= 'a' && c <= 'f');
}

/* "%" and two hexadecimal digits, other than %00. */
static int is_plain_escape(Bytes at) {
    return is_hex(at[1]) && is_hex(at[2]) && !(at[1] == '0' && at[2] == '0');
}

static PyObject *plain_request(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    if (count != 3 || !PyBytes_Check(args[0]))
        return PyErr_Format(PyExc_TypeError, "plain_request takes bytes and two integers");
    Py_ssize_t uri_bytes = PyLong_AsSsize_t(args[1]);
    Py_ssize_t header_count = uri_bytes == -1 && PyErr_Occurred() ? -1 : PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred())
        return NULL;
    Bytes head = (Bytes)PyBytes_AS_STRING(args[0]);
    Py_ssize_t size = PyBytes_GET_SIZE(args[0]);
    Bytes last = find_last(head, size);
    if (last == NULL)
        Py_RETURN_NONE;

    Bytes method_end = head;
    while (*method_end >= 'A' && *method_end <= 'Z')
        method_end++;
    Py_ssize_t method_bytes = method_end - head;
    if (method_bytes < 1 || method_bytes > METHOD_BYTES || is_other_method(head, method_bytes))
        Py_RETURN_NONE;
    if (method_end[0] != ' ' || method_end[1] != '/')
        Py_RETURN_NONE;
    Bytes target = method_end + 1, target_end = target;
    while (*target_end > ' ' && *target_end < 0x7f && *target_end != '#' && *target_end != '\\') {
        if (*target_end == '%' && !is_plain_escape(target_end))
            Py_RETURN_NONE;
        target_end++;
    }
    if (target_end - target > uri_bytes || head + size - target_end < 11
        || memcmp(target_end, " HTTP/1.1\r\n", 11) != 0)
        Py_RETURN_NONE;
    Bytes line_end = target_end + 9;

    Fields fields;
    const Line *host = &fields.host, *request_id = &fields.request_id;
    if (!read_fields(line_end, last, header_count, 1, &fields) || host->start == NULL)
        Py_RETURN_NONE;
    PyObject *items[] = {
        PyLong_FromSsize_t(line_end - head),
        bytes_between(head, method_end),
        bytes_between(target, target_end),
        PyLong_FromLong(1),
        bytes_between(host->value, host->value_end),
        request_id->start == NULL ? bytes_between(head, head) : bytes_between(request_id->value, request_id->value_end),
        PyLong_FromLongLong(fields.length < 0 ? 0 : fields.length),
        cuts_of(head, &fields.connection),
    };
    return tuple_of(items, 8);
}

static PyObject *plain_response(PyObject *Py_UNUSED(module), PyObject *raw) {
    if (!PyBytes_Check(raw))
        return PyErr_Format(PyExc_TypeError, "plain_response takes bytes");
    Bytes head = (Bytes)PyBytes_AS_STRING(raw);
    Bytes last = find_last(head, PyBytes_GET_SIZE(raw));
    if (last == NULL || last - head < 14 || memcmp(head, "HTTP/1.1 ", 9) != 0 || head[12] != ' ')
        Py_RETURN_NONE;
    int status = 0;
    for (Bytes at = head + 9; at < head + 12; at++) {
        if (*at < '0' || *at > '9')
            Py_RETURN_NONE;
        status = status * 10 + (*at - '0');
    }
    if (status < 200 || status > 599 || status == 204 || status == 205 || status == 304)
        Py_RETURN_NONE;
    Bytes line_end = head + 13;
    while ((*line_end >= ' ' && *line_end <= '~') || *line_end == '\t')
        line_end++;
    if (line_end == head + 13 || line_end[0] != '\r' || line_end[1] != '\n')
        Py_RETURN_NONE;

    Fields fields;
    if (!read_fields(line_end, last, RESPONSE_FIELDS, 0, &fields) || fields.length < 0)
        Py_RETURN_NONE;
    PyObject *items[] = {
        PyLong_FromLong(status),
        PyLong_FromSsize_t(line_end - head),
        PyLong_FromLongLong(fields.length),
        cuts_of(head, &fields.connection),
        PyBool_FromLong(fields.has_date),
    };
    return tuple_of(items, 5);
}

static PyObject *head_end(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    if (count != 2 || !PyBytes_Check(args[0]))
        return PyErr_Format(PyExc_TypeError, "head_end takes bytes and an integer");
    Py_ssize_t offset = PyLong_AsSsize_t(args[1]), size = PyBytes_GET_SIZE(args[0]);
    if (offset < 0) /* -1 may be an error, too */
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "an offset is not negative");
    Bytes data = (Bytes)PyBytes_AS_STRING(args[0]);

    for (; size - offset >= 4; offset++) {
        Bytes at = memchr(data + offset, '\r', (size_t)(size - offset - 3));
        if (at == NULL)
            break;
        offset = at - data;
        if (memcmp(at, "\r\n\r\n", 4) == 0)
            return PyLong_FromSsize_t(offset + 4);
    }
    return PyLong_FromLong(-1);
}

static PyMethodDef functions[] = {
    {"head_end", (PyCFunction)(void (*)(void))head_end, METH_FASTCALL, NULL},
    {"plain_request", (PyCFunction)(void (*)(void))plain_request, METH_FASTCALL, NULL},
    {"plain_response", plain_response, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
#ifdef Py_mod_multiple_interpreters /* 3.12 */
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil /* 3.13 */
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_plain_heads", NULL, 0, functions, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__plain_heads(void) { return PyModuleDef_Init(&definition); }
